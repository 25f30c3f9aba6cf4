#include "dist/step.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
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

// What rides with the gradient, summed over ranks by the exchange: 32 bytes,
// then the samples of each task that some entry asks about.
struct Stepper::Header {
  enum Slot { kLoss, kWeight, kTokens, kVotes, kFixed };
  // Ranks that vote for something are counted in 12 bits each of one double,
  // which holds 53 exactly.
  enum Vote { kNonFinite, kError, kCheckpoint, kStop };
  static constexpr double kMostRanks = 4096;

  explicit Header(std::size_t tasks) : numbers(kFixed + tasks, 0.0) {}
  double& operator[](std::size_t i) { return numbers[i]; }
  void vote(Vote v) { numbers[kVotes] += std::pow(kMostRanks, v); }
  bool voted(Vote v) const {
    const double above = std::floor(numbers[kVotes] / std::pow(kMostRanks, v));
    return std::fmod(above, kMostRanks) > 0;
  }
  std::vector<double> numbers;
};

Stepper::Stepper(const TrainRun& run, Loader& loader, std::int64_t steps)
    : run_(run),
      options_(run.options),
      loader_(loader),
      steps_(steps),
      schedule_(parse_schedule(run.options.schedule)) {
  THINWIRE_ASSERT(run.comm->size() < Header::kMostRanks, "{} ranks",
                  run.comm->size());
}

void Stepper::use(Delta& delta, Optimizer& optimizer) {
  delta_ = &delta;
  optimizer_ = &optimizer;
  reducer_ = make_flat_reducer(*run_.comm, delta.grads());
  tasks_ = tasks_asked(delta);
}

void Stepper::micro_batch(std::int64_t index, StepRecord& record,
                          Header& header) {
  auto clock = Clock::now();
  const SampleBatch batch = loader_.next();
  const BackboneInput in =
      run_.task->collate(batch.samples, run_.backbone->config());
  for (const Sample& s : batch.samples) {
    header[Header::kTokens] +=
        static_cast<double>(s.input.size() + s.target.size());
    const auto asked = std::ranges::find(tasks_, s.task);
    if (asked != tasks_.end()) {
      header[Header::kFixed +
             static_cast<std::size_t>(asked - tasks_.begin())] += 1;
    }
  }
  record.data_ms += lap(clock);

  ForwardContext ctx;
  ctx.training = true;
  ctx.seed = options_.seed;
  ctx.step = static_cast<std::uint64_t>(index);
  ctx.tasks = in.tasks;
  const LossTerms terms = run_.task->loss(*run_.backbone, in, ctx);
  header[Header::kLoss] += terms.sum.item<double>();
  header[Header::kWeight] += terms.weight;
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

  Header header(tasks_.size());
  std::string error, culprit;
  delta_->zero_grads();
  try {
    for (std::int64_t i = 0; i < options_.accumulation; ++i) {
      micro_batch(index, record, header);
    }
  } catch (const CommError&) {
    throw;
  } catch (const std::exception& e) {
    // The other ranks wait in the exchange: the news rides in it.
    error = first_line(e);
    std::ranges::fill(header.numbers, 0.0);
    header.vote(Header::kError);
    delta_->zero_grads();
  }
  auto clock = Clock::now();
  const std::string entry = first_nonfinite(*delta_);
  if (!entry.empty()) {
    culprit = fmt::format("gradient of '{}'", entry);
  } else if (!std::isfinite(header[Header::kLoss])) {
    culprit = "the loss";
  }
  if (!culprit.empty()) header.vote(Header::kNonFinite);
  const auto request =
      run_.request == nullptr ? TrainRun::Request::kNone : run_.request();
  using Request = TrainRun::Request;
  if (request == Request::kCheckpoint) header.vote(Header::kCheckpoint);
  if (request == Request::kStop) header.vote(Header::kStop);
  record.backward_ms += lap(clock);

  reducer_->ready(0, delta_->size());
  const ExchangeStats stats = reducer_->finish(header.numbers);
  record.comm_ms = lap(clock);
  record.comm_exposed_ms = stats.seconds_blocked * 1e3;
  record.sent_bytes = stats.bytes_sent;
  record.received_bytes = stats.bytes_received;
  if (header.voted(Header::kError)) agree_ok(*run_.comm, error);

  const double weight = header[Header::kWeight];
  record.samples =
      options_.batch_size * options_.accumulation * run_.comm->size();
  record.tokens = std::llround(header[Header::kTokens]);
  outcome.checkpoint = header.voted(Header::kCheckpoint);
  outcome.stop = header.voted(Header::kStop);
  outcome.no_weight = weight == 0;
  record.loss = header[Header::kLoss] / (weight == 0 ? 1 : weight);

  std::vector<std::int32_t> present;
  for (std::size_t i = 0; i < tasks_.size(); ++i) {
    if (header[Header::kFixed + i] > 0) present.push_back(tasks_[i]);
  }
  const auto active = active_entries(*delta_, index, present);
  const GradientScale scale = scale_gradient(
      *delta_, active, weight == 0 ? 1 : 1 / weight, options_.clip);
  record.grad_norm = scale.norm;
  if (header.voted(Header::kNonFinite) || !scale.finite ||
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
