// thinwire eval: metrics of a saved delta over a folder of shards.
#include <cstdio>

#include "base/error.h"
#include "comm/communicator.h"
#include "launch/job.h"
#include "launch/metrics_log.h"
#include "launch/saved_run.h"
#include "launch/verbs/verbs.h"

namespace thinwire {
namespace {

EnsembleRecords all_records(Communicator& comm, SavedRun& saved) {
  OpenRun& open = saved.open;
  if (open.eval == nullptr) {
    return evaluate_ensemble(comm, *open.backbone, *open.task, open.task_evals,
                             saved.options, *saved.members);
  }
  return evaluate_ensemble(comm, *open.backbone, *open.task, *open.eval,
                           saved.options, *saved.members);
}

// The last record, and those of the tasks before it.
nlohmann::ordered_json json_of(const std::vector<EvalRecord>& records) {
  auto json = to_json(records.back());
  for (std::size_t i = 0; i + 1 < records.size(); ++i) {
    json["tasks"].push_back(to_json(records[i]));
  }
  return json;
}

void print_json(const SavedRun& saved, const EnsembleRecords& all) {
  auto json = json_of(all.vote);
  if (saved.deltas.size() == 1) {
    json["delta"] = saved.deltas.front();
  } else {
    for (std::size_t m = 0; m < all.members.size(); ++m) {
      auto member = json_of(all.members[m]);
      member["delta"] = saved.deltas[m];
      json["members"].push_back(std::move(member));
    }
  }
  std::printf("%s\n", json.dump().c_str());
}

void print(const std::string& who, const SavedRun& saved,
           const std::vector<EvalRecord>& records) {
  for (const EvalRecord& record : records) {
    const std::string of = saved.open.eval != nullptr
                               ? saved.open.config.eval_data
                           : record.task.empty() ? "all tasks"
                                                 : record.task;
    std::printf("%s on %s: %lld samples in %.1f s\n", who.c_str(), of.c_str(),
                static_cast<long long>(record.samples), record.seconds);
    for (const auto& [name, value] : record.metrics) {
      std::printf("%-12s %.4f\n", name.c_str(), value);
    }
  }
}

int run(const Arguments& arguments, Communicator& comm) {
  Progress progress;
  SavedRun saved = open_saved_run(arguments, comm, progress, "eval");
  const EnsembleRecords all = all_records(comm, saved);
  if (comm.rank() != 0) return kExitDone;
  if (arguments.has("json")) {
    print_json(saved, all);
    return kExitDone;
  }
  for (std::size_t m = 0; m < all.members.size(); ++m) {
    print(saved.deltas[m], saved, all.members[m]);
  }
  if (all.members.size() > 1) {
    print(fmt::format("vote of {} deltas", all.members.size()), saved,
          all.vote);
  }
  return kExitDone;
}

constexpr VerbOption kOptions[] = {
    {"CONFIG", "the run, a YAML file", true},
    {"overrides…", "key.path=value, as data.eval=DIR"},
    {"--delta PATH…",
     "a delta file, checkpoint or run folder (default: the best of output); "
     "several vote"},
    {"--task NAME", "of several tasks this one alone"},
    {"--data DIR", "shards to evaluate on (default: data.eval)"},
    {"--json", "print one line of JSON"},
};

}  // namespace

constexpr Verb kEvalVerb{"eval", "metrics of a saved delta",
                         "Evaluates the best (else the newest) delta of the "
                         "config's run folder, or\n"
                         "any other, split over the ranks. Several deltas of "
                         "one layout vote, as\n"
                         "docs/methods.md says; each is evaluated by itself "
                         "too.\n"
                         "Example:\n"
                         "  thinwire eval runs/quickstart/fish/config.yaml\n"
                         "  thinwire eval runs/p1/config.yaml --delta runs/p1 "
                         "--delta runs/p2 --delta runs/p3",
                         kOptions, &run};

}  // namespace thinwire
