#include "launch/saved_run.h"

#include <utility>

#include "comm/communicator.h"
#include "launch/device.h"
#include "launch/job.h"

namespace thinwire {

SavedRun open_saved_run(const Arguments& arguments, Communicator& comm,
                        Progress& progress, std::string_view what) {
  RunConfig config =
      load_run_config(arguments.get("CONFIG"), arguments.all("overrides"));
  if (arguments.has("data")) config.eval_data = arguments.get("data");
  agree_config(comm, config);
  const at::Device device = open_device(config.device, comm);
  SavedRun run;
  run.open = open_run(std::move(config), Need::kNothing, Need::kRequired, comm);
  run.open.backbone->parameters().move_to(device);
  attach_saved_delta(run.open, arguments.get("delta"), &run.delta);
  agree_text(comm, "the delta", run.delta);

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
