// thinwire eval: metrics of a saved delta over a folder of shards.
#include <cstdio>

#include "base/error.h"
#include "comm/communicator.h"
#include "dist/task_evals.h"
#include "launch/job.h"
#include "launch/metrics_log.h"
#include "launch/saved_run.h"
#include "launch/verbs/verbs.h"

namespace thinwire {
namespace {

std::vector<EvalRecord> all_records(Communicator& comm, SavedRun& saved) {
  OpenRun& open = saved.open;
  if (open.eval == nullptr) {
    return evaluate_tasks(comm, *open.backbone, *open.task, open.task_evals,
                          saved.options);
  }
  return {
      evaluate(comm, *open.backbone, *open.task, *open.eval, saved.options)};
}

int run(const Arguments& arguments, Communicator& comm) {
  Progress progress;
  SavedRun saved = open_saved_run(arguments, comm, progress, "eval");
  const std::vector<EvalRecord> records = all_records(comm, saved);
  if (comm.rank() != 0) return kExitDone;
  if (arguments.has("json")) {
    auto json = to_json(records.back());
    json["delta"] = saved.delta;
    for (std::size_t i = 0; i + 1 < records.size(); ++i) {
      json["tasks"].push_back(to_json(records[i]));
    }
    std::printf("%s\n", json.dump().c_str());
    return kExitDone;
  }
  for (const EvalRecord& record : records) {
    const std::string of = saved.open.eval != nullptr
                               ? saved.open.config.eval_data
                           : record.task.empty() ? "all tasks"
                                                 : record.task;
    std::printf("%s on %s: %lld samples in %.1f s\n", saved.delta.c_str(),
                of.c_str(), static_cast<long long>(record.samples),
                record.seconds);
    for (const auto& [name, value] : record.metrics) {
      std::printf("%-12s %.4f\n", name.c_str(), value);
    }
  }
  return kExitDone;
}

constexpr VerbOption kOptions[] = {
    {"CONFIG", "the run, a YAML file", true},
    {"overrides…", "key.path=value, as data.eval=DIR"},
    {"--delta PATH",
     "a delta file, checkpoint or run folder (default: the best of output)"},
    {"--task NAME", "of several tasks this one alone"},
    {"--data DIR", "shards to evaluate on (default: data.eval)"},
    {"--json", "print one line of JSON"},
};

}  // namespace

constexpr Verb kEvalVerb{"eval", "metrics of a saved delta",
                         "Evaluates the best (else the newest) delta of the "
                         "config's run folder, or\n"
                         "any other, split over the ranks.\n"
                         "Example:\n"
                         "  thinwire eval runs/quickstart/fish/config.yaml",
                         kOptions, &run};

}  // namespace thinwire
