#include "dist/micro_batches.h"

#include <ATen/core/Tensor.h>
#include <fmt/format.h>

#include <algorithm>
#include <iterator>

#include "base/error.h"
#include "base/heap.h"
#include "comm/communicator.h"
#include "dist/feature_cache.h"
#include "dist/options.h"
#include "dist/stopwatch.h"
#include "dist/together.h"

namespace thinwire {

MicroBatches::MicroBatches(const TrainRun& run, Loader& loader)
    : run_(run), loader_(loader) {
  if (run.options.deterministic) {
    shards_ = virtual_shards(run.options, run.comm->size());
  }
}

SampleBatch MicroBatches::next(StepRecord& record) {
  Stopwatch clock;
  SampleBatch batch = loader_.next();
  std::int64_t tokens = 0;
  for (const Sample& s : batch.samples) {
    tokens += std::ssize(s.input) + std::ssize(s.target);
  }
  // The pieces that smaller batches freed are too small for this one, and would
  // stay beside what it takes. Larger ones soon come no more.
  if (tokens > most_tokens_) give_back_freed_memory();
  most_tokens_ = std::max(most_tokens_, tokens);
  record.data_ms += clock.lap();
  return batch;
}

at::Tensor MicroBatches::forward(std::span<const Sample> samples,
                                 const std::vector<std::int32_t>& tasks,
                                 LocalStep& step, StepRecord& record) {
  Stopwatch clock;
  BackboneInput in = run_.task->collate(samples, run_.backbone->config());
  give_features(*run_.backbone, samples, in);
  for (const Sample& s : samples) {
    step.tokens += std::ssize(s.input) + std::ssize(s.target);
    const auto asked = std::ranges::find(tasks, s.task);
    if (asked != tasks.end()) {
      ++step.samples[static_cast<std::size_t>(asked - tasks.begin())];
    }
  }
  record.data_ms += clock.lap();

  ForwardContext ctx;
  ctx.training = true;
  ctx.checkpoint_blocks = run_.options.checkpoint_blocks;
  ctx.seed = run_.options.seed;
  ctx.step = static_cast<std::uint64_t>(step.index);
  ctx.tasks = in.tasks;
  LossTerms terms = run_.task->loss(*run_.backbone, in, ctx);
  step.loss += terms.sum.item<double>();
  step.weight += terms.weight;
  record.forward_ms += clock.lap();
  return std::move(terms.sum);
}

// Sums: the division by the weight of all ranks follows the exchange. A batch
// without loss weight may well record no graph.
void MicroBatches::backward(Delta& delta, const at::Tensor& loss,
                            StepRecord& record) {
  Stopwatch clock;
  if (loss.requires_grad()) loss.backward();
  delta.pull_grads();
  record.backward_ms += clock.lap();
}

void MicroBatches::run_shards(Delta& delta,
                              const std::vector<std::int32_t>& tasks,
                              LocalStep& step, StepRecord& record) {
  const SampleBatch batch = next(record);
  const int mine = shards_->per_rank();
  tree_.reset();
  ShardSums sums;
  for (int i = 0; i < mine; ++i) {
    step.loss = step.weight = 0;
    backward(delta,
             forward(shards_->shard(batch.samples, i), tasks, step, record),
             record);
    sums = {step.loss, step.weight};
    tree_.add(mine, delta.grads(), sums);
  }
  step.loss = sums.loss;
  step.weight = sums.weight;
}

std::string MicroBatches::cost(Delta& delta, std::int64_t index) {
  StepRecord ignored;
  const SampleBatch batch = next(ignored);
  const std::span<const Sample> samples(batch.samples);
  const auto time = [&](std::int64_t size) {
    Stopwatch clock;
    LocalStep step;
    step.index = index;
    for (std::size_t at = 0; at < samples.size();
         at += static_cast<std::size_t>(size)) {
      backward(delta,
               forward(samples.subspan(at, static_cast<std::size_t>(size)), {},
                       step, ignored),
               ignored);
    }
    delta.zero_grads();
    return clock.lap();
  };
  time(shards_->samples());  // the first pass allocates
  const double apart = time(shards_->samples());
  const double whole = time(run_.options.batch_size);
  loader_.seek(static_cast<std::uint64_t>(index));
  return fmt::format("{}; forward and backward take {:.2f} times as long",
                     shards_->cost(delta.size()), apart / whole);
}

void MicroBatches::run(
    Delta& delta, const std::vector<std::int32_t>& tasks,
    const std::function<void(const at::Tensor& loss)>& before_last,
    LocalStep& step, StepRecord& record) {
  step.samples.assign(tasks.size(), 0);
  try {
    if (shards_) return run_shards(delta, tasks, step, record);
    for (std::int64_t i = run_.options.accumulation; i > 0; --i) {
      const SampleBatch batch = next(record);
      const at::Tensor loss = forward(batch.samples, tasks, step, record);
      if (i == 1) before_last(loss);
      backward(delta, loss, record);
    }
  } catch (const CommError&) {
    throw;
  } catch (const std::exception& e) {
    // The other ranks wait in the exchange: the news rides in it.
    step.error = first_line(e);
    if (step.error.empty()) step.error = "failed without a message";
    step.loss = step.weight = 0;
    step.tokens = 0;
  }
}

}  // namespace thinwire
