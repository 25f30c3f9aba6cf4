// thinwire train: a run from a config, with its run folder.
#include <spdlog/spdlog.h>

#include <cstdio>

#include "base/error.h"
#include "comm/communicator.h"
#include "comm/watch.h"
#include "launch/device.h"
#include "launch/estimate/estimate.h"
#include "launch/job.h"
#include "launch/open_run.h"
#include "launch/report.h"
#include "launch/run_folder.h"
#include "launch/run_observer.h"
#include "launch/signals.h"
#include "launch/summary.h"
#include "launch/verbs/verbs.h"
#include "ops/tensor_memory.h"

namespace thinwire {
namespace {

TrainSummary train(OpenRun& open, Communicator& comm, bool resume,
                   const std::string& init) {
  const auto observer = make_observer(comm.rank(), open.config.output,
                                      open.config.train.log_every);
  TrainRun run{.comm = &comm,
               .backbone = open.backbone.get(),
               .identity = open.identity,
               .task = open.task.get(),
               .methods = &open.methods,
               .train = open.train,
               .eval = open.eval,
               .task_evals = open.task_evals,
               .options = open.config.train,
               .folder = open.config.output,
               .resume = resume,
               .config_text = open.config.text,
               .observer = observer.get(),
               .request = &take_request,
               .initial_delta = std::nullopt};
  if (!init.empty()) run.initial_delta = attach_saved_delta(open, init);
  return run_training(run);
}

void print_end(const TrainSummary& s, const std::string& folder) {
  std::string line = fmt::format("{} steps in {:.1f} s", s.steps, s.seconds);
  if (s.last) {
    for (const auto& [name, value] : s.last->metrics) {
      line += fmt::format("  {} {:.4f}", name, value);
    }
  }
  std::printf("%s  ->  %s\n", line.c_str(), folder.c_str());
}

// Beside what was measured: what would have been foreseen of this run. A run
// that has ended well does not fail for it.
void add_prediction(OpenRun& open, int ranks, nlohmann::ordered_json& summary) {
  try {
    open.backbone->detach_all();
    open.backbone->parameters().freeze_all();
    const StepEstimate estimate = estimate_step(
        open, foresee_delta(open, open.config.output, /*budget=*/0),
        largest_batch(open, ranks), kSummaryBudget);
    summary["predicted"] = to_json(estimate);
    const std::string news = compare(estimate, summary["measured"]);
    if (!news.empty()) std::printf("%s\n", news.c_str());
  } catch (const std::exception& error) {
    spdlog::info("nothing predicted: {}", error.what());
  }
}

int run(const Arguments& arguments, Communicator& comm) {
  count_tensor_memory();
  RunConfig config =
      load_run_config(arguments.get("CONFIG"), arguments.all("overrides"));
  const bool resume = arguments.has("resume");
  comm.set_default_timeout_seconds(config.timeout_seconds);
  if (Watch* watch = Watch::current()) {
    watch->set_deadline(config.silence_seconds);
  }
  agree_config(comm, config);
  if (arguments.has("check")) {
    OpenRun open = open_run(config, Need::kRequired, Need::kIfNamed, comm);
    const std::string text = describe_config(open);
    if (comm.rank() == 0) std::printf("%sthe config is good\n", text.c_str());
    return kExitDone;
  }
  const at::Device device = open_device(config.device, comm);
  if (config.output.empty()) {
    fail<UsageError>(
        "{}: output is missing: the run folder, as in "
        "`output: runs/first`",
        config.path);
  }
  open_run_folder(comm, config.output, resume);
  OpenRun open = open_run(config, Need::kRequired, Need::kIfNamed, comm);
  open.backbone->parameters().move_to(device);
  if (comm.rank() == 0) write_config(config.output, config.text);
  install_signal_handlers();
  try {
    const TrainSummary summary =
        train(open, comm, resume, arguments.get("init"));
    if (comm.rank() != 0) {
      return summary.stop == TrainSummary::Stop::kSignal ? kExitCheckpointed
                                                         : kExitDone;
    }
    nlohmann::ordered_json json = summary_json(summary);
    add_prediction(open, comm.size(), json);
    write_summary(config.output, json);
    if (summary.stop == TrainSummary::Stop::kSignal) {
      std::printf(
          "stopped by a signal at step %lld, checkpointed; go on with "
          "--resume\n",
          static_cast<long long>(summary.steps));
      return kExitCheckpointed;
    }
    print_end(summary, config.output);
    return kExitDone;
  } catch (const std::exception& error) {
    spdlog::info("failed: {}", error.what());
    if (comm.rank() == 0) {
      try {
        write_summary(config.output, failure_json(error));
      } catch (const IoError& second) {
        spdlog::info("{}", second.what());  // the first error is the news
      }
    }
    if (dynamic_cast<const IoError*>(&error) != nullptr) {
      fail<RunIoError>("{}", error.what());
    }
    throw;
  }
}

constexpr VerbOption kOptions[] = {
    {"CONFIG", "the run, a YAML file", true},
    {"overrides…", "key.path=value, as train.lr=1e-3 or peft.0.r=4"},
    {"--resume", "go on from the newest checkpoint of the run folder"},
    {"--check", "check config, model and data, print sizes, start nothing"},
    {"--init DELTA", "start from a delta: a file, a checkpoint or run folder"},
};

}  // namespace

constexpr Verb kTrainVerb{
    "train", "train the delta that a config describes",
    "One rank, or as many as mpirun starts; they must all be given the same\n"
    "config. SIGTERM ends the run with a checkpoint and exit status 75,\n"
    "SIGUSR1 writes one in passing.\n"
    "Example:\n"
    "  mpirun -np 2 thinwire train configs/quickstart_fish.yaml "
    "train.steps=500",
    kOptions, &run};

}  // namespace thinwire
