// One optimizer step: micro-batches forward and backward, then what the run's
// exchange policy makes of their gradient (dist/policy.h). Decisions (skip,
// stop, checkpoint) are made from what ranks exchanged, so every rank makes the
// same one.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "dist/policy.h"
#include "dist/schedule.h"

namespace thinwire {

class Stepper {
 public:
  // run and loader outlive it.
  Stepper(const TrainRun& run, Loader& loader);

  // What an earlier part of the run found out; before the first use().
  void reuse(Tuned tuned) { tuned_ = std::move(tuned); }
  const Tuned& tuned() const;
  // What this rank sends in a step, in the mean over steps; nothing where that
  // is not known beforehand. After use().
  std::optional<std::int64_t> predicted_sent_bytes() const;

  // The layout to train from now on, and what its schedule extends over; delta
  // and optimizer outlive the next use(). Blocks on all ranks. Throws
  // UsageError on all alike.
  void use(Delta& delta, Optimizer& optimizer, Stretch stretch);
  // Before use() of the layout that follows: maps what the policy keeps.
  void relayout(const Delta& old, const Relayout& to, StatePolicy policy);

  // index: 0 for the run's first step; last: the phase or the run ends with it.
  // Throws what failed on any rank, on every rank: UsageError with the rank
  // named.
  StepOutcome step(std::int64_t index, bool last);

  // The most that tensors held in any step so far.
  std::int64_t peak_tensor_bytes() const { return peak_tensor_bytes_; }

  // Deterministic: one line on what that costs.
  std::string cost(std::int64_t index) {
    return micro_batches_.cost(*delta_, index);
  }

  // For checkpoints, while the common values are in the delta: what all ranks
  // share beside it, then each rank's own, of all ranks. Blocks on them.
  NamedTensors state();
  // After use(). Throws UsageError naming `where`.
  void load(const NamedTensors& saved, const std::string& where);

  // While it lives, delta and backbone hold the values that all ranks have in
  // common: those of the last merge, between two.
  class Common {
   public:
    explicit Common(Policy& policy)
        : policy_(policy.swap_common() ? &policy : nullptr) {}
    ~Common() {
      if (policy_ != nullptr) policy_->swap_common();
    }
    Common(const Common&) = delete;
    Common& operator=(const Common&) = delete;

   private:
    Policy* policy_;
  };
  [[nodiscard]] Common common() { return Common(*policy_); }

 private:
  void tune();

  const TrainRun& run_;
  const TrainOptions& options_;
  Schedule schedule_;
  Stretch stretch_;
  MicroBatches micro_batches_;
  Delta* delta_ = nullptr;
  std::vector<std::int32_t> tasks_;  // whose presence decides what moves
  Tuned tuned_;
  NamedTensors carried_;  // of the layout before, mapped
  std::unique_ptr<Exchange> exchange_;
  std::unique_ptr<Policy> policy_;
  std::int64_t peak_tensor_bytes_ = 0;
};

}  // namespace thinwire
