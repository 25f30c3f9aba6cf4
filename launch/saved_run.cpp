#include "launch/saved_run.h"

#include <fmt/ranges.h>

#include <utility>

#include "base/error.h"
#include "comm/communicator.h"
#include "launch/config_tasks.h"
#include "launch/device.h"
#include "launch/job.h"
#include "peft/delta_arithmetic.h"

namespace thinwire {

namespace {

// --task: of several tasks one alone; --data: its folder, or the only one.
void choose_data(const Arguments& arguments, RunConfig& config) {
  if (!arguments.has("task")) {
    if (!arguments.has("data")) return;
    if (!config.tasks.empty()) {
      fail<UsageError>("--data {}: of which task? say --task NAME",
                       arguments.get("data"));
    }
    config.eval_data = arguments.get("data");
    return;
  }
  TaskData& chosen = find_task_data(config, arguments.get("task"));
  if (arguments.has("data")) chosen.eval = arguments.get("data");
  for (TaskData& task : config.tasks) {
    if (&task != &chosen) task.eval.clear();
  }
}

// Each --delta, or that of the run's own folder.
std::vector<Delta> load_members(const Arguments& arguments, SavedRun& run) {
  std::vector<std::string> given = arguments.all("delta");
  if (given.empty()) given.emplace_back();
  std::vector<NamedDelta> loaded;
  for (const std::string& path : given) {
    std::string file;
    Delta delta = load_saved_delta(run.open, path, &file);
    loaded.push_back({file, {std::move(delta), run.open.identity}});
    run.deltas.push_back(std::move(file));
  }
  require_alike(loaded);
  std::vector<Delta> members;
  for (NamedDelta& d : loaded) members.push_back(std::move(d.file.delta));
  return members;
}

}  // namespace

SavedRun open_saved_run(const Arguments& arguments, Communicator& comm,
                        Progress& progress, std::string_view what) {
  RunConfig config =
      load_run_config(arguments.get("CONFIG"), arguments.all("overrides"));
  choose_data(arguments, config);
  agree_config(comm, config);
  const at::Device device = open_device(config.device, comm);
  SavedRun run;
  run.open = open_run(std::move(config), Need::kNothing, Need::kRequired, comm);
  run.open.backbone->parameters().move_to(device);
  run.members.emplace(*run.open.backbone, run.open.methods,
                      load_members(arguments, run));
  agree_text(comm, "the delta", fmt::format("{}", fmt::join(run.deltas, "\n")));

  const TrainOptions& train = run.open.config.train;
  run.options.batch_size =
      train.eval_batch_size > 0 ? train.eval_batch_size : train.batch_size;
  run.options.samples = train.eval_samples;
  if (comm.rank() == 0) {
    run.options.progress = [&progress, what = std::string(what)](
                               std::int64_t done, std::int64_t of) {
      progress.work(what, done, of);
    };
  }
  return run;
}

}  // namespace thinwire
