// What a step of a run will cost, before it runs: memory and arithmetic.
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <span>
#include <string>
#include <vector>

#include "base/sample.h"
#include "launch/estimate/flops.h"
#include "launch/estimate/foreseen_delta.h"
#include "launch/open_run.h"

namespace thinwire {

// Bytes on one rank. Shared: mapped, held once per host.
struct MemoryEstimate {
  std::int64_t weights_shared = 0, weights_private = 0;
  std::int64_t states = 0;       // values, gradients, indices, optimizer
  std::int64_t activations = 0;  // kept by the graph, batch included
  std::int64_t transient = 0;    // the most beside them at one time
  std::int64_t features = 0;     // read from a cache: batches on their way
  std::int64_t base = 0;         // program and libraries
  std::int64_t tensors = 0;      // peak of the count of ops/tensor_memory.h
  std::int64_t process = 0;      // peak of resident memory
};

struct StepEstimate {
  MemoryEstimate memory;
  StepFlops flops;
  std::int64_t samples = 0, tokens = 0;  // of the batch that it is for
  std::int64_t trainable = 0;
  std::string masks;  // where the delta's are from, as ForeseenDelta has it
};

// The batch with the most tokens that one rank will meet, among the first
// batches of the run; without data, `data.max_tokens` (else 128) in each
// sample.
std::vector<Sample> largest_batch(const OpenRun& run, int ranks = 1);

// Floating-point operations that the probes may make. Above it the estimate is
// made from fewer samples.
inline constexpr double kInspectBudget = 6e11, kSummaryBudget = 3e11;

// foreseen: its masks are those that are measured. Counts tensors from now on
// if nobody did; makes steps on small models, on this rank alone.
StepEstimate estimate_step(const OpenRun& run, const ForeseenDelta& foreseen,
                           std::span<const Sample> batch, double budget);

nlohmann::ordered_json to_json(const StepEstimate& estimate);
// One line where the prediction misses a peak of `measured` (summary.json) by
// more than 5 % of what tensors hold or 12 % of the process; else "".
std::string compare(const StepEstimate& estimate,
                    const nlohmann::ordered_json& measured);
std::string describe(const StepEstimate& estimate);

}  // namespace thinwire
