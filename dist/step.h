// One optimizer step: micro-batches forward and backward, one exchange, one
// pass of the optimizer. Decisions (skip, stop, checkpoint) are made from what
// the exchange summed, so every rank makes the same one.
#pragma once

#include <chrono>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "comm/reducer.h"
#include "dist/optimizer.h"
#include "dist/schedule.h"
#include "dist/trainer.h"

namespace thinwire {

struct StepOutcome {
  StepRecord record;
  // Some rank's TrainRun::request said so.
  bool checkpoint = false, stop = false;
  // Why the step was skipped, naming tensor and rank; equal on all ranks.
  std::string nonfinite;
  bool no_weight = false;  // no example of any rank carried loss weight
};

class Stepper {
 public:
  // run and loader outlive it. steps: of the whole run, for the schedule.
  Stepper(const TrainRun& run, Loader& loader, std::int64_t steps);

  // The layout to train from now on; both outlive the next use().
  void use(Delta& delta, Optimizer& optimizer);

  // index: 0 for the run's first step. Throws what failed on any rank, on every
  // rank: UsageError with the rank named.
  StepOutcome step(std::int64_t index);

 private:
  struct Local;
  void micro_batch(std::int64_t index, StepRecord& record, Local& local);
  std::uint32_t fingerprint(std::int64_t index) const;
  std::vector<std::int32_t> tasks_present(
      const Guard& guard, const std::vector<std::int64_t>& samples);
  std::string name_culprits(const std::string& mine);

  const TrainRun& run_;
  const TrainOptions& options_;
  Loader& loader_;
  std::int64_t steps_;
  Schedule schedule_;
  Delta* delta_ = nullptr;
  Optimizer* optimizer_ = nullptr;
  std::unique_ptr<Reducer> reducer_;
  Digest layout_;                    // of all that ranks must share
  std::vector<std::int32_t> tasks_;  // whose presence decides what moves
};

}  // namespace thinwire
