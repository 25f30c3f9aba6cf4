// thinwire mask: decide what trains, once, and save it.
#include <cstdio>

#include "base/error.h"
#include "comm/communicator.h"
#include "dist/declare.h"
#include "launch/device.h"
#include "launch/job.h"
#include "launch/open_run.h"
#include "launch/progress.h"
#include "launch/report.h"
#include "launch/verbs/verbs.h"

namespace thinwire {
namespace {

class ScoringProgress : public TrainObserver {
 public:
  void progress(std::string_view what, std::int64_t done,
                std::int64_t of) override {
    progress_.work(what, done, of);
  }

 private:
  Progress progress_;
};

int run(const Arguments& arguments, Communicator& comm) {
  RunConfig config =
      load_run_config(arguments.get("CONFIG"), arguments.all("overrides"));
  agree_config(comm, config);
  const at::Device device = open_device(config.device, comm);
  OpenRun open = open_run(config, Need::kRequired, Need::kNothing, comm);
  open.backbone->parameters().move_to(device);
  ScoringProgress progress;
  const auto scoring = make_scoring(
      comm, *open.backbone, *open.task, open.train, config.train.data_seed,
      comm.rank() == 0 ? &progress : nullptr, config.train.deterministic);
  const Delta delta = declare_delta(
      *open.backbone, open.methods,
      {.seed = config.train.seed, .step = 0, .scoring = scoring.get()});
  agree(comm, "the mask", delta.hash().hex());
  const std::string path = arguments.get("output");
  std::string error;
  if (comm.rank() == 0) {
    try {
      save_delta(path, delta, open.identity);
      std::printf("%s%s\n", describe_delta(delta).c_str(), path.c_str());
    } catch (const IoError& e) {
      error = e.what();
    }
  }
  agree_ok(comm, error);
  return kExitDone;
}

constexpr VerbOption kOptions[] = {
    {"CONFIG", "the run, a YAML file", true},
    {"overrides…", "key.path=value, as peft.0.density=0.01"},
    {"--output FILE", "the mask, a delta file (.safetensors)", true},
};

}  // namespace

constexpr Verb kMaskVerb{
    "mask", "compute a mask and save it",
    "Scores the model on the training data as `train` would before its first\n"
    "step, over all ranks, and writes what would train as a delta file.\n"
    "Example:\n"
    "  thinwire mask configs/quickstart_fish.yaml --output mask.safetensors",
    kOptions, &run};

}  // namespace thinwire
