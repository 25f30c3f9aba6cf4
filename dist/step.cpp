#include "dist/step.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "base/error.h"
#include "comm/communicator.h"
#include "dist/buffers.h"
#include "dist/gradient.h"
#include "dist/ownership.h"
#include "dist/stopwatch.h"
#include "dist/together.h"
#include "ops/tensor_memory.h"

namespace thinwire {
namespace {

std::string trace_path(const TrainRun& run) {
  if (!run.options.exchange.trace || run.folder.empty()) return "";
  return fmt::format("{}/exchange-{}.jsonl", run.folder, run.comm->rank());
}

}  // namespace

Stepper::Stepper(const TrainRun& run, Loader& loader)
    : run_(run),
      options_(run.options),
      schedule_(parse_schedule(run.options.schedule)),
      micro_batches_(run, loader) {}

const Tuned& Stepper::tuned() const {
  return exchange_ == nullptr ? tuned_ : exchange_->tuned();
}

std::optional<std::int64_t> Stepper::predicted_sent_bytes() const {
  const std::int64_t bytes = exchange_->planned_bytes();
  if (bytes < 0) return std::nullopt;
  return bytes / options_.exchange.sync_every;
}

// What a resumed run found out before is not asked again.
void Stepper::tune() {
  const ExchangeOptions& options = options_.exchange;
  const bool asked =
      options.algorithm == Algorithm::kAuto || options.bucket_bytes == 0;
  if (tuned_.bucket_bytes == 0 && options.measure && asked &&
      run_.comm->size() > 1) {
    tuned_.link = measure_link(*run_.comm);
  }
  if (options.bucket_bytes > 0) {
    tuned_.bucket_bytes = options.bucket_bytes;
  } else if (tuned_.bucket_bytes == 0) {
    const auto all = delta_->size() * static_cast<std::int64_t>(sizeof(float));
    tuned_.bucket_bytes = std::max<std::int64_t>(
        1, choose_bucket_bytes(tuned_.link, run_.comm->size(), all));
  }
}

void Stepper::use(Delta& delta, Optimizer& optimizer, Stretch stretch) {
  const ExchangeOptions& options = options_.exchange;
  policy_.reset();
  exchange_.reset();
  delta_ = &delta;
  stretch_ = stretch;
  tasks_ = tasks_asked(delta);
  tune();
  exchange_ = together(*run_.comm, [&] {
    return std::make_unique<Exchange>(*run_.comm, options, delta,
                                      run_.backbone->parameters(), tuned_,
                                      run_.config_text, trace_path(run_));
  });
  Policy::Setup setup{run_, delta, optimizer, *exchange_, tasks_};
  policy_ = together(*run_.comm, [&] {
    if (!options.local()) return make_every_step(std::move(setup));
    at::Tensor owned =
        options.workers == ExchangeOptions::Workers::kDisjoint
            ? owned_numbers(delta, run_.comm->rank(), run_.comm->size())
            : at::Tensor();
    return make_local_steps(std::move(setup), std::move(owned));
  });
  policy_->adopt(std::exchange(carried_, {}));
}

void Stepper::relayout(const Delta& old, const Relayout& to,
                       StatePolicy policy) {
  carried_.clear();
  for (const auto& [name, tensor] : policy_->vectors()) {
    carried_.emplace_back(name, map_state(tensor, old, to, policy));
  }
  tuned_ = exchange_->tuned();
  tuned_.order.clear();
  policy_.reset();  // their delta is about to go
  exchange_.reset();
}

StepOutcome Stepper::step(std::int64_t index, bool last) {
  const Stopwatch clock;
  reset_peak_tensor_bytes();
  StepOutcome outcome;
  StepRecord& record = outcome.record;
  record.step = index + 1;
  record.lr =
      learning_rate(schedule_, options_.lr, options_.warmup,
                    stretch_.end - stretch_.begin, index - stretch_.begin);
  record.samples =
      options_.batch_size * options_.accumulation * run_.comm->size();
  LocalStep step;
  step.index = index;
  step.lr = record.lr;
  step.last = last;
  delta_->zero_grads();
  micro_batches_.run(
      *delta_, tasks_,
      [&](const at::Tensor& loss) { policy_->before_backward(index, loss); },
      step, record);
  using Request = TrainRun::Request;
  const Request request =
      run_.request == nullptr ? Request::kNone : run_.request();
  if (request == Request::kCheckpoint) step.votes |= kVoteCheckpoint;
  if (request == Request::kStop) step.votes |= kVoteStop;
  policy_->finish(step, outcome);
  record.step_ms = clock.total();
  record.peak_tensor_bytes = thinwire::peak_tensor_bytes();
  peak_tensor_bytes_ = std::max(peak_tensor_bytes_, record.peak_tensor_bytes);
  return outcome;
}

NamedTensors Stepper::state() {
  NamedTensors all = policy_->shared_state();
  for (auto& tensor : gather_ranks(*run_.comm, policy_->rank_state())) {
    all.push_back(std::move(tensor));
  }
  return all;
}

void Stepper::load(const NamedTensors& saved, const std::string& where) {
  policy_->load(saved,
                of_rank(saved, run_.comm->rank(), run_.comm->size(), where),
                where);
}

}  // namespace thinwire
