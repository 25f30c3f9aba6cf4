#include "dist/step.h"

#include <ATen/core/Tensor.h>
#include <ATen/ops/tensor.h>
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <iterator>
#include <span>

#include "base/error.h"
#include "comm/communicator.h"
#include "dist/gradient.h"
#include "dist/together.h"
#include "ops/optimizer_pass.h"

namespace thinwire {
namespace {

using Clock = std::chrono::steady_clock;

// Milliseconds since `since`, which is set to now.
double lap(Clock::time_point& since) {
  const auto now = Clock::now();
  const std::chrono::duration<double, std::milli> took = now - since;
  since = now;
  return took.count();
}

}  // namespace

// What this rank says of its micro-batches.
struct Stepper::Local {
  double loss = 0, weight = 0;
  std::int64_t tokens = 0;
  std::vector<std::int64_t> samples;  // of each task asked for
};

namespace {

// Bits of Guard::flags. Then come the tasks present, as far as they fit.
enum Vote : std::uint32_t {
  kNonFinite = 1,
  kError = 2,
  kCheckpoint = 4,
  kStop = 8,
};
constexpr std::size_t kTaskBits = 32 - Guard::kVotes;

std::uint32_t task_bit(std::size_t i) {
  return i < kTaskBits ? 1u << (Guard::kVotes + i) : 0;
}

}  // namespace

Stepper::Stepper(const TrainRun& run, Loader& loader, std::int64_t steps)
    : run_(run),
      options_(run.options),
      loader_(loader),
      steps_(steps),
      schedule_(parse_schedule(run.options.schedule)) {}

void Stepper::use(Delta& delta, Optimizer& optimizer) {
  delta_ = &delta;
  optimizer_ = &optimizer;
  tasks_ = tasks_asked(delta);
  ReducerOptions options;
  options.buckets = {{0, delta.size()}};
  Hasher layout;
  layout.string(delta.hash().hex()).string(run_.config_text);
  for (const Bucket& b : options.buckets) {
    layout.number(b.offset).number(b.count).number(
        static_cast<std::int64_t>(b.codec));
  }
  layout_ = layout.digest();
  reducer_ = make_reducer(*run_.comm, delta.grads(), std::move(options));
}

std::uint32_t Stepper::fingerprint(std::int64_t index) const {
  const Digest d = Hasher().number(index).string(layout_.hex()).digest();
  return static_cast<std::uint32_t>(d.low);
}

// Bits of Guard::flags hold the first 24; more are counted in a call of their
// own.
std::vector<std::int32_t> Stepper::tasks_present(
    const Guard& guard, const std::vector<std::int64_t>& samples) {
  std::vector<std::int32_t> present;
  for (std::size_t i = 0; i < tasks_.size() && i < kTaskBits; ++i) {
    if ((guard.flags & task_bit(i)) != 0) present.push_back(tasks_[i]);
  }
  if (tasks_.size() <= kTaskBits) return present;
  at::Tensor rest =
      at::tensor(at::ArrayRef<std::int64_t>(samples).slice(kTaskBits));
  run_.comm->all_reduce(rest, ReduceOp::kSum, {.tag = "tasks"});
  for (std::int64_t i = 0; i < rest.numel(); ++i) {
    if (rest.const_data_ptr<std::int64_t>()[i] == 0) continue;
    present.push_back(tasks_[kTaskBits + static_cast<std::size_t>(i)]);
  }
  return present;
}

void Stepper::micro_batch(std::int64_t index, StepRecord& record,
                          Local& local) {
  auto clock = Clock::now();
  const SampleBatch batch = loader_.next();
  const BackboneInput in =
      run_.task->collate(batch.samples, run_.backbone->config());
  for (const Sample& s : batch.samples) {
    local.tokens += std::ssize(s.input) + std::ssize(s.target);
    const auto asked = std::ranges::find(tasks_, s.task);
    if (asked != tasks_.end()) {
      ++local.samples[static_cast<std::size_t>(asked - tasks_.begin())];
    }
  }
  record.data_ms += lap(clock);

  ForwardContext ctx;
  ctx.training = true;
  ctx.seed = options_.seed;
  ctx.step = static_cast<std::uint64_t>(index);
  ctx.tasks = in.tasks;
  const LossTerms terms = run_.task->loss(*run_.backbone, in, ctx);
  local.loss += terms.sum.item<double>();
  local.weight += terms.weight;
  record.forward_ms += lap(clock);

  // Sums: the division by the weight of all ranks follows the exchange. A batch
  // without loss weight may well record no graph.
  if (terms.sum.requires_grad()) terms.sum.backward();
  record.backward_ms += lap(clock);
}

std::string Stepper::name_culprits(const std::string& mine) {
  const auto all = run_.comm->all_gather_v(
      std::as_bytes(std::span(mine.data(), mine.size())),
      {.tag = "non-finite"});
  std::string text;
  for (std::size_t r = 0; r < all.size(); ++r) {
    if (all[r].empty()) continue;
    const std::string name(reinterpret_cast<const char*>(all[r].data()),
                           all[r].size());
    text += fmt::format("{}{} on rank {}", text.empty() ? "" : ", ", name, r);
  }
  if (!text.empty()) return text;
  const std::string name = first_nonfinite(*delta_);
  return name.empty() ? "the summed loss"
                      : fmt::format("gradient of '{}' summed over ranks", name);
}

StepOutcome Stepper::step(std::int64_t index) {
  const auto begin = Clock::now();
  StepOutcome outcome;
  StepRecord& record = outcome.record;
  record.step = index + 1;
  record.lr =
      learning_rate(schedule_, options_.lr, options_.warmup, steps_, index);

  Local local;
  local.samples.resize(tasks_.size());
  std::uint32_t votes = 0;
  std::string error, culprit;
  delta_->zero_grads();
  try {
    for (std::int64_t i = 0; i < options_.accumulation; ++i) {
      micro_batch(index, record, local);
    }
  } catch (const CommError&) {
    throw;
  } catch (const std::exception& e) {
    // The other ranks wait in the exchange: the news rides in it.
    error = first_line(e);
    local = {.samples = std::vector<std::int64_t>(tasks_.size())};
    votes |= kError;
    delta_->zero_grads();
  }
  auto clock = Clock::now();
  const std::string entry = first_nonfinite(*delta_);
  if (!entry.empty()) {
    culprit = fmt::format("gradient of '{}'", entry);
  } else if (!std::isfinite(local.loss)) {
    culprit = "the loss";
  }
  if (!culprit.empty()) votes |= kNonFinite;
  const auto request =
      run_.request == nullptr ? TrainRun::Request::kNone : run_.request();
  using Request = TrainRun::Request;
  if (request == Request::kCheckpoint) votes |= kCheckpoint;
  if (request == Request::kStop) votes |= kStop;
  record.backward_ms += lap(clock);

  Guard guard{.fingerprint = fingerprint(index),
              .flags = votes,
              .loss = local.loss,
              .weight = local.weight,
              .tokens = static_cast<std::uint32_t>(local.tokens)};
  for (std::size_t i = 0; i < tasks_.size(); ++i) {
    if (local.samples[i] > 0) guard.flags |= task_bit(i);
  }
  reducer_->begin(static_cast<std::uint64_t>(index));
  const ExchangeStats stats = reducer_->finish(guard);
  const auto present = tasks_present(guard, local.samples);
  record.comm_ms = lap(clock);
  record.comm_exposed_ms = stats.seconds_blocked * 1e3;
  record.sent_bytes = stats.bytes_sent;
  record.received_bytes = stats.bytes_received;
  if ((guard.flags & kError) != 0) agree_ok(*run_.comm, error);

  const double weight = guard.weight;
  record.samples =
      options_.batch_size * options_.accumulation * run_.comm->size();
  record.tokens = guard.tokens;
  outcome.checkpoint = (guard.flags & kCheckpoint) != 0;
  outcome.stop = (guard.flags & kStop) != 0;
  outcome.no_weight = weight == 0;
  record.loss = guard.loss / (weight == 0 ? 1 : weight);

  const auto active = active_entries(*delta_, index, present);
  const GradientScale scale = scale_gradient(
      *delta_, active, weight == 0 ? 1 : 1 / weight, options_.clip);
  record.grad_norm = scale.norm;
  if ((guard.flags & kNonFinite) != 0 || !scale.finite ||
      !std::isfinite(record.loss)) {
    record.skipped = true;
    outcome.nonfinite = name_culprits(culprit);
  } else if (!outcome.no_weight) {
    optimizer_->step(*delta_, active, record.lr, scale.group);
    delta_->write_back(run_.backbone->parameters());
  }
  record.optimizer_ms = lap(clock);
  const auto end = Clock::now();
  record.step_ms =
      std::chrono::duration<double, std::milli>(end - begin).count();
  return outcome;
}

}  // namespace thinwire
