// thinwire eval: metrics of a saved delta over a folder of shards.
#include <cstdio>

#include "base/error.h"
#include "comm/communicator.h"
#include "dist/evaluate.h"
#include "launch/job.h"
#include "launch/metrics_log.h"
#include "launch/open_run.h"
#include "launch/progress.h"
#include "launch/verbs/verbs.h"

namespace thinwire {
namespace {

int run(const Arguments& arguments, Communicator& comm) {
  RunConfig config =
      load_run_config(arguments.get("CONFIG"), arguments.all("overrides"));
  if (arguments.has("data")) config.eval_data = arguments.get("data");
  agree_text(comm, "the configuration", config.text);
  set_threads(config.threads);
  OpenRun open = open_run(config, Need::kNothing, Need::kRequired);
  std::string found;
  attach_saved_delta(open, arguments.get("delta"), &found);
  agree_text(comm, "the delta", found);

  Progress progress;
  EvalOptions options;
  options.batch_size = config.train.eval_batch_size > 0
                           ? config.train.eval_batch_size
                           : config.train.batch_size;
  options.samples = config.train.eval_samples;
  if (comm.rank() == 0) {
    options.progress = [&](std::int64_t done, std::int64_t of) {
      progress.work("eval", done, of);
    };
  }
  const EvalRecord record =
      evaluate(comm, *open.backbone, *open.task, *open.eval, options);
  if (comm.rank() != 0) return kExitDone;
  if (arguments.has("json")) {
    auto json = to_json(record);
    json["delta"] = found;
    std::printf("%s\n", json.dump().c_str());
    return kExitDone;
  }
  std::printf("%s on %s: %lld samples in %.1f s\n", found.c_str(),
              config.eval_data.c_str(), static_cast<long long>(record.samples),
              record.seconds);
  for (const auto& [name, value] : record.metrics) {
    std::printf("%-12s %.4f\n", name.c_str(), value);
  }
  return kExitDone;
}

constexpr VerbOption kOptions[] = {
    {"CONFIG", "the run, a YAML file", true},
    {"overrides…", "key.path=value, as data.eval=DIR"},
    {"--delta PATH",
     "a delta file, checkpoint or run folder (default: the best of output)"},
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
