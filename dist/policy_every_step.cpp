// Every step ends with an exchange: P ranks make the step that one rank with
// all their samples would make.
#include <fmt/format.h>

#include <cmath>
#include <utility>

#include "comm/communicator.h"
#include "dist/gradient.h"
#include "dist/policy.h"
#include "dist/stopwatch.h"

namespace thinwire {
namespace {

class EveryStep : public Policy {
 public:
  using Policy::Policy;

  void before_backward(std::int64_t index, const at::Tensor& loss) override {
    s_.exchange.begin(static_cast<std::uint64_t>(index), loss);
  }

  void finish(LocalStep& step, StepOutcome& outcome) override {
    StepRecord& record = outcome.record;
    Stopwatch clock;
    if (!s_.exchange.begun()) {  // failed before its last backward
      s_.exchange.begin(static_cast<std::uint64_t>(step.index), {});
    }
    std::string culprit;
    if (const auto entry = s_.exchange.first_nonfinite(); !entry.empty()) {
      culprit = fmt::format("gradient of '{}'", entry);
    } else if (!std::isfinite(step.loss)) {
      culprit = "the loss";
    }
    Guard guard{.flags = step.votes | task_flags(step.samples),
                .loss = step.loss,
                .weight = step.weight,
                .tokens = static_cast<std::uint32_t>(step.tokens)};
    if (!culprit.empty()) guard.flags |= kVoteNonFinite;
    if (!step.error.empty()) guard.flags |= kVoteError;
    record.backward_ms += clock.lap();

    const ExchangeStats stats = s_.exchange.finish(guard);
    const auto present = tasks_present(guard, step.samples);
    record.comm_ms = clock.lap();
    record.comm_exposed_ms = stats.seconds_blocked * 1e3;
    record.sent_bytes = stats.bytes_sent;
    record.received_bytes = stats.bytes_received;
    if ((guard.flags & kVoteError) != 0) agree_ok(comm_, step.error);

    const double weight = guard.weight;
    record.tokens = guard.tokens;
    outcome.checkpoint = (guard.flags & kVoteCheckpoint) != 0;
    outcome.stop = (guard.flags & kVoteStop) != 0;
    outcome.no_weight = weight == 0;
    record.loss = guard.loss / (weight == 0 ? 1 : weight);
    record.penalty = add_penalties(weight);

    const auto active = active_entries(s_.delta, step.index, present);
    const GradientScale scale = scale_gradient(
        s_.delta, active, weight == 0 ? 1 : 1 / weight, s_.run.options.clip);
    record.grad_norm = scale.norm;
    if ((guard.flags & kVoteNonFinite) != 0 || !scale.finite ||
        !std::isfinite(record.loss)) {
      record.skipped = true;
      outcome.nonfinite = name_culprits(culprit, "gradient");
      outcome.warning =
          fmt::format("step {} skipped on all ranks, not finite: {}",
                      step.index + 1, outcome.nonfinite);
    } else if (!outcome.no_weight) {
      s_.optimizer.step(s_.delta, active, step.lr, scale.group,
                        &s_.run.backbone->parameters());
    }
    record.optimizer_ms = clock.lap();
  }

  NamedTensors shared_state() const override { return s_.optimizer.state(); }

  void load(const NamedTensors& shared, const NamedTensors& own,
            const std::string& where) override {
    Policy::load(shared, own, where);
    s_.optimizer.load(shared, where);
  }
};

}  // namespace

std::unique_ptr<Policy> make_every_step(Policy::Setup setup) {
  return std::make_unique<EveryStep>(std::move(setup));
}

}  // namespace thinwire
