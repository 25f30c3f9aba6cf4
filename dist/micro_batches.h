// The forward and backward passes of one step on this rank.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "dist/trainer.h"
#include "dist/virtual_shards.h"

namespace thinwire {

// What one step made on this rank, its gradient beside it in the delta.
struct LocalStep {
  std::int64_t index = 0;  // of the step, from 0
  double lr = 0;
  bool last = false;            // the phase or the run ends with it
  double loss = 0, weight = 0;  // sums over samples or target tokens
  std::int64_t tokens = 0;
  std::vector<std::int64_t> samples;  // of each task asked about
  std::string error;                  // what failed here; "": nothing
  std::uint32_t votes = 0;            // for all ranks: Vote bits
};

// Low bits of Guard::flags; the tasks present come after them.
enum Vote : std::uint32_t {
  kVoteNonFinite = 1,
  kVoteError = 2,
  kVoteCheckpoint = 4,
  kVoteStop = 8,
};

class MicroBatches {
 public:
  // Both outlive it.
  MicroBatches(const TrainRun& run, Loader& loader);

  // Adds `accumulation` micro-batches, or this rank's virtual shards, to the
  // delta's gradient, which is zero before, and fills in sums, samples of
  // `tasks` and, when something throws, error; CommError goes through.
  // before_last(loss) is called between the last forward and its backward;
  // never with virtual shards, whose sum is final when this returns. Times go
  // to record.
  void run(Delta& delta, const std::vector<std::int32_t>& tasks,
           const std::function<void(const at::Tensor& loss)>& before_last,
           LocalStep& step, StepRecord& record);

  // Deterministic: one line on what that costs, its time measured on the batch
  // of step `index`, which then comes again. The delta's gradient is zero
  // afterwards.
  std::string cost(Delta& delta, std::int64_t index);

 private:
  SampleBatch next(StepRecord& record);
  at::Tensor forward(std::span<const Sample> samples,
                     const std::vector<std::int32_t>& tasks, LocalStep& step,
                     StepRecord& record);
  static void backward(Delta& delta, const at::Tensor& loss,
                       StepRecord& record);
  void run_shards(Delta& delta, const std::vector<std::int32_t>& tasks,
                  LocalStep& step, StepRecord& record);

  const TrainRun& run_;
  Loader& loader_;
  std::optional<VirtualShards> shards_;  // deterministic
  TreeSum tree_;
  std::int64_t most_tokens_ = 0;  // in a batch so far
};

}  // namespace thinwire
