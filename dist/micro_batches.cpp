#include "dist/micro_batches.h"

#include <ATen/core/Tensor.h>

#include <algorithm>
#include <iterator>

#include "base/error.h"
#include "dist/stopwatch.h"
#include "dist/together.h"

namespace thinwire {

MicroBatches::MicroBatches(const TrainRun& run, Loader& loader)
    : run_(run), loader_(loader) {}

at::Tensor MicroBatches::forward(const std::vector<std::int32_t>& tasks,
                                 LocalStep& step, StepRecord& record) {
  Stopwatch clock;
  const SampleBatch batch = loader_.next();
  const BackboneInput in =
      run_.task->collate(batch.samples, run_.backbone->config());
  for (const Sample& s : batch.samples) {
    step.tokens += std::ssize(s.input) + std::ssize(s.target);
    const auto asked = std::ranges::find(tasks, s.task);
    if (asked != tasks.end()) {
      ++step.samples[static_cast<std::size_t>(asked - tasks.begin())];
    }
  }
  record.data_ms += clock.lap();

  ForwardContext ctx;
  ctx.training = true;
  ctx.seed = run_.options.seed;
  ctx.step = static_cast<std::uint64_t>(step.index);
  ctx.tasks = in.tasks;
  LossTerms terms = run_.task->loss(*run_.backbone, in, ctx);
  step.loss += terms.sum.item<double>();
  step.weight += terms.weight;
  record.forward_ms += clock.lap();
  return std::move(terms.sum);
}

void MicroBatches::run(
    const std::vector<std::int32_t>& tasks,
    const std::function<void(const at::Tensor& loss)>& before_last,
    LocalStep& step, StepRecord& record) {
  step.samples.assign(tasks.size(), 0);
  try {
    for (std::int64_t i = run_.options.accumulation; i > 0; --i) {
      const at::Tensor loss = forward(tasks, step, record);
      Stopwatch clock;
      if (i == 1) before_last(loss);
      // Sums: the division by the weight of all ranks follows the exchange. A
      // batch without loss weight may well record no graph.
      if (loss.requires_grad()) loss.backward();
      record.backward_ms += clock.lap();
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
