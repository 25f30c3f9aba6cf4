// `thinwire bench step`: steps of a run as the trainer makes them, without a
// run folder, each followed by a product of matrices whose rate says what this
// machine could do at the time.
#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "dist/trainer.h"
#include "launch/estimate/estimate.h"
#include "launch/open_run.h"
#include "launch/verb.h"

namespace thinwire {

struct StepBenchOptions {
  std::int64_t warmup = 3, steps = 20;
};

// One answer that must agree with another way to compute it.
struct StepCheck {
  std::string name;                     // of the other way
  double loss = 0, loss_error = 0;      // relative
  double norm = 0, gradient_error = 0;  // |g - g'| / |g'|
  double tolerance = 0;
  bool good() const {
    return loss_error <= tolerance && gradient_error <= tolerance;
  }
};

struct StepBenchResult {
  StepRecord median;  // of each part by itself
  std::vector<double> step_ms;
  double gemm_flops = 0;  // per second, the median of the probes between steps
  double flops = 0;       // of the mean batch
  std::int64_t peak_tensor_bytes = 0;
  StepEstimate estimate;
  std::vector<StepCheck> checks;
  // Time of a step over the time its arithmetic takes at the products' rate.
  double roofline() const { return median.step_ms / 1e3 * gemm_flops / flops; }
};

// Floating-point operations per second of fp32 products (bf16 weights: of
// those) of this many rows, on the threads in use. Takes a few milliseconds.
double gemm_rate(std::int64_t rows, bool bf16);

// Checks, then times. Blocks on all ranks; figures are this rank's.
StepBenchResult bench_step(OpenRun& run, Communicator& comm,
                           const StepBenchOptions& options);

std::string format_result(const StepBenchResult& result);
nlohmann::ordered_json to_json(const StepBenchResult& result);

// The verb: prints, and returns the exit status, 1 where a check failed.
int run_bench_step(const Arguments& arguments, Communicator& comm);

}  // namespace thinwire
