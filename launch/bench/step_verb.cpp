// `thinwire bench step`: its arguments.
#include <algorithm>
#include <cstdio>
#include <fstream>

#include "base/error.h"
#include "comm/communicator.h"
#include "launch/bench/parse.h"
#include "launch/bench/report.h"
#include "launch/bench/step_bench.h"
#include "launch/job.h"
#include "ops/tensor_memory.h"

namespace thinwire {

int run_bench_step(const Arguments& arguments, Communicator& comm) {
  if (!arguments.has("CONFIG")) {
    fail<UsageError>("bench step: CONFIG is missing: the run to time");
  }
  count_tensor_memory();
  RunConfig config =
      load_run_config(arguments.get("CONFIG"), arguments.all("overrides"));
  agree_config(comm, config);
  StepBenchOptions options;
  options.warmup = static_cast<std::int64_t>(
      parse_number("--warmup", arguments.get("warmup", "3"), 0));
  options.steps = static_cast<std::int64_t>(
      parse_number("--steps", arguments.get("steps", "20"), 1));
  OpenRun open = open_run(config, Need::kRequired, Need::kNothing, comm);
  const StepBenchResult result = bench_step(open, comm, options);
  if (comm.rank() == 0) {
    std::fputs(format_result(result).c_str(), stdout);
    if (const std::string path = arguments.get("json"); !path.empty()) {
      nlohmann::ordered_json json = to_json(result);
      json["machine"] = describe_machine();
      std::ofstream file(path);
      file << json.dump(1) << "\n";
      if (!file.flush()) fail<IoError>("{}: cannot be written", path);
    }
  }
  const bool good = std::ranges::all_of(result.checks, &StepCheck::good);
  return good ? kExitDone : kExitFailed;
}

}  // namespace thinwire
