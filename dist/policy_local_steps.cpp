// Every rank makes steps of its own, with its own optimizer state; at a merge
// the differences from the last common values are exchanged and an outer
// optimizer moves the common values by them:
//
//   d = mean over ranks of (values - common); the sum where each rank moves a
//       share of its own
//   m = outer_momentum m + d
//   common += outer_lr (outer_momentum m + d)
//
// Stich 2019, "Local SGD converges fast and communicates little" (outer_lr 1,
// momentum 0); Douillard et al. 2023, "DiLoCo", alg. 1 (Nesterov); Sung et al.
// 2021, "Training neural networks with fixed sparse masks", sec. 4.2 (mean of
// identical masks, sum of disjoint ones).
//
// A rank whose own step is not finite leaves that step out and goes on; at the
// merge all ranks learn of it, name it and count it once. When the summed
// differences are not finite, all ranks return to the common values.
#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>

#include "base/error.h"
#include "comm/communicator.h"
#include "dist/buffers.h"
#include "dist/gradient.h"
#include "dist/policy.h"
#include "dist/stopwatch.h"
#include "dist/together.h"

namespace thinwire {
namespace {

constexpr const char* kMomentum = "outer.momentum";
constexpr const char* kValues = "local.values";
constexpr const char* kWindow = "local.window";
constexpr std::string_view kInner = "local.";  // before the optimizer's names

// Steps since the last merge, on this rank.
struct Window {
  std::int64_t begin = -1;  // its first step; -1: none made yet
  double loss = 0, weight = 0;
  std::int64_t tokens = 0, skipped = 0;
  std::int64_t culprit_step = -1;     // the first that was left out
  std::int64_t culprit_entry = -1;    // -1: the loss
  std::vector<std::int64_t> samples;  // of each task asked about

  at::Tensor tensor() const {
    std::vector<double> n = {static_cast<double>(begin),
                             loss,
                             weight,
                             static_cast<double>(tokens),
                             static_cast<double>(skipped),
                             static_cast<double>(culprit_step),
                             static_cast<double>(culprit_entry)};
    for (const auto s : samples) n.push_back(static_cast<double>(s));
    at::Tensor t =
        at::empty({static_cast<std::int64_t>(n.size())}, at::kDouble);
    std::ranges::copy(n, t.mutable_data_ptr<double>());
    return t;
  }
  static constexpr std::size_t kFixed = 7;
  void load(const at::Tensor& t) {
    const double* n = t.const_data_ptr<double>();
    begin = static_cast<std::int64_t>(n[0]);
    loss = n[1];
    weight = n[2];
    tokens = static_cast<std::int64_t>(n[3]);
    skipped = static_cast<std::int64_t>(n[4]);
    culprit_step = static_cast<std::int64_t>(n[5]);
    culprit_entry = static_cast<std::int64_t>(n[6]);
    for (std::size_t i = 0; i < samples.size(); ++i) {
      samples[i] = static_cast<std::int64_t>(n[kFixed + i]);
    }
  }
};

class LocalSteps : public Policy {
 public:
  LocalSteps(Setup setup, at::Tensor owned)
      : Policy(std::move(setup)),
        options_(s_.run.options.exchange),
        owned_(std::move(owned)),
        common_(s_.delta.snapshot()) {
    if (options_.outer_momentum != 0) {
      momentum_ = at::zeros({s_.delta.size()}, at::kFloat);
    }
    if (owned_.defined()) s_.optimizer.keep_only(owned_);
    window_.samples.assign(s_.tasks.size(), 0);
  }

  void before_backward(std::int64_t, const at::Tensor&) override {}

  void finish(LocalStep& step, StepOutcome& outcome) override {
    THINWIRE_ASSERT(!swapped_, "step {} on the common values", step.index);
    Stopwatch clock;
    votes_ |= step.votes;
    if (window_.begin < 0) window_.begin = step.index;
    if (step.error.empty()) inner_step(step, outcome.record);
    outcome.record.optimizer_ms = clock.lap();
    outcome.exchanged = false;
    const bool due = step.last || (step.index + 1) % options_.sync_every == 0;
    if (due || !step.error.empty()) {
      merge(step, outcome);
      outcome.exchanged = true;
    }
  }

  NamedTensors shared_state() const override {
    if (!momentum_.defined()) return {};
    return {{kMomentum, momentum_}};
  }

  NamedTensors rank_state() const override {
    NamedTensors state = Policy::rank_state();
    THINWIRE_ASSERT(swapped_, "the rank's own values lie in the delta");
    state.emplace_back(kValues, common_);
    state.emplace_back(kWindow, window_.tensor());
    for (auto& [name, tensor] : s_.optimizer.state()) {
      state.emplace_back(std::string(kInner) + name, tensor);
    }
    return state;
  }

  void load(const NamedTensors& shared, const NamedTensors& own,
            const std::string& where) override {
    Policy::load(shared, own, where);
    const std::int64_t k = s_.delta.size();
    if (momentum_.defined()) {
      momentum_.copy_(find_state(shared, kMomentum, at::kFloat, k, where,
                                 "comm.outer_momentum"));
    }
    window_.load(find_state(
        own, kWindow, at::kDouble,
        static_cast<std::int64_t>(Window::kFixed + window_.samples.size()),
        where, "comm.sync_every"));
    NamedTensors inner;
    for (const auto& [name, tensor] : own) {
      if (name.starts_with(kInner)) {
        inner.emplace_back(name.substr(kInner.size()), tensor);
      }
    }
    s_.optimizer.load(inner, where);
    common_ = s_.delta.snapshot();
    s_.delta.restore(
        find_state(own, kValues, at::kFloat, k, where, "comm.sync_every"));
    s_.delta.write_back(s_.run.backbone->parameters());
  }

  NamedTensors vectors() const override {
    NamedTensors all = Policy::vectors();
    if (momentum_.defined()) all.emplace_back(kMomentum, momentum_);
    return all;
  }

  void adopt(const NamedTensors& vectors) override {
    Policy::adopt(vectors);
    for (const auto& [name, tensor] : vectors) {
      if (name == kMomentum) momentum_.copy_(tensor);
    }
  }

  bool swap_common() override {
    s_.delta.swap(common_);
    s_.delta.write_back(s_.run.backbone->parameters());
    swapped_ = !swapped_;
    return true;
  }

 private:
  void inner_step(const LocalStep& step, StepRecord& record) {
    Delta& delta = s_.delta;
    record.penalty = add_penalties(step.weight);
    keep_own(nullptr);
    std::vector<std::int32_t> present;
    for (std::size_t i = 0; i < s_.tasks.size(); ++i) {
      window_.samples[i] += step.samples[i];
      if (step.samples[i] > 0) present.push_back(s_.tasks[i]);
    }
    const auto active = active_entries(delta, step.index, present);
    const double weight = step.weight == 0 ? 1 : step.weight;
    const GradientScale scale =
        scale_gradient(delta, active, 1 / weight, s_.run.options.clip);
    record.loss = step.loss / weight;
    record.grad_norm = scale.norm;
    record.tokens = step.tokens;
    window_.tokens += step.tokens;
    if (!scale.finite || !std::isfinite(step.loss)) {
      record.skipped = true;
      ++window_.skipped;
      if (window_.culprit_step < 0) {
        window_.culprit_step = step.index;
        window_.culprit_entry = delta.find(first_nonfinite(delta));
      }
      return;
    }
    window_.loss += step.loss;
    window_.weight += step.weight;
    if (step.weight == 0) return;
    Parameters& weights = s_.run.backbone->parameters();
    if (owned_.defined()) {
      s_.optimizer.step(delta, active, step.lr, scale.group);
      keep_own(common_.const_data_ptr<float>());
      delta.write_back(weights);
    } else {
      s_.optimizer.step(delta, active, step.lr, scale.group, &weights);
    }
  }

  // What other ranks move stays as it was: no gradient (common null), no
  // weight decay.
  void keep_own(const float* common) {
    if (!owned_.defined()) return;
    const bool* owned = owned_.const_data_ptr<bool>();
    at::Tensor& vector =
        common == nullptr ? s_.delta.grads() : s_.delta.values();
    float* x = vector.mutable_data_ptr<float>();
    for (std::int64_t i = 0; i < vector.numel(); ++i) {
      if (!owned[i]) x[i] = common == nullptr ? 0 : common[i];
    }
  }

  std::string culprit() const {
    if (window_.culprit_step < 0) return "";
    const std::string what =
        window_.culprit_entry < 0
            ? "the loss"
            : fmt::format("gradient of '{}'",
                          s_.delta
                              .entries()[static_cast<std::size_t>(
                                  window_.culprit_entry)]
                              .name);
    return fmt::format("{} at step {}", what, window_.culprit_step + 1);
  }

  // A rank that fails comes early, and others are slower than this one.
  double patience(std::int64_t index) const {
    const double made =
        std::max<double>(1, static_cast<double>(index - window_.begin + 1));
    return since_merge_.total() * 1e-3 *
           (1 + 2 * static_cast<double>(options_.sync_every) / made);
  }

  void merge(LocalStep& step, StepOutcome& outcome) {
    StepRecord& record = outcome.record;
    Delta& delta = s_.delta;
    Stopwatch clock;
    float* d = delta.grads().mutable_data_ptr<float>();
    float* values = delta.values().mutable_data_ptr<float>();
    float* common = common_.mutable_data_ptr<float>();
    const std::int64_t k = delta.size();
    for (std::int64_t i = 0; i < k; ++i) d[i] = values[i] - common[i];

    // Numbered by its first step: a rank that fails comes before the last.
    s_.exchange.begin(static_cast<std::uint64_t>(window_.begin), {});
    std::string bad = culprit();
    if (const auto e = s_.exchange.first_nonfinite();
        bad.empty() && !e.empty()) {
      bad = fmt::format("difference of '{}'", e);
    }
    constexpr auto kMost = std::numeric_limits<std::uint32_t>::max();
    Guard guard{.flags = votes_ | task_flags(window_.samples),
                .loss = window_.loss,
                .weight = window_.weight,
                .tokens = static_cast<std::uint32_t>(
                    std::min<std::int64_t>(window_.tokens, kMost))};
    if (!bad.empty()) guard.flags |= kVoteNonFinite;
    if (!step.error.empty()) guard.flags |= kVoteError;
    ExchangeStats stats;
    std::vector<std::int32_t> present;
    {
      const Patience longer(comm_, patience(step.index));
      stats = s_.exchange.finish(guard);
      present = tasks_present(guard, window_.samples);
    }
    record.comm_ms = clock.lap();
    record.comm_exposed_ms = stats.seconds_blocked * 1e3;
    record.sent_bytes = stats.bytes_sent;
    record.received_bytes = stats.bytes_received;
    if ((guard.flags & kVoteError) != 0) agree_ok(comm_, step.error);

    // What earlier records of the window did not say.
    record.tokens += guard.tokens - window_.tokens;
    record.loss = guard.loss / (guard.weight == 0 ? 1 : guard.weight);
    outcome.no_weight = guard.weight == 0;
    outcome.checkpoint = (guard.flags & kVoteCheckpoint) != 0;
    outcome.stop = (guard.flags & kVoteStop) != 0;
    const bool finite = first_nonfinite(delta).empty();
    if ((guard.flags & kVoteNonFinite) != 0 || !finite) {
      outcome.nonfinite = name_culprits(bad, "difference");
      outcome.warning = fmt::format(
          "steps {} to {}, not finite: {}; {}", window_.begin + 1,
          step.index + 1, outcome.nonfinite,
          finite ? "left out by that rank" : "nothing of them is kept");
    }
    if (finite) {
      outer_step(active_entries(delta, window_.begin, step.index, present));
    } else {
      record.skipped = true;
    }
    delta.restore(common_);
    delta.write_back(s_.run.backbone->parameters());
    const auto tasks = window_.samples.size();
    window_ = {};
    window_.samples.assign(tasks, 0);
    votes_ = 0;
    since_merge_ = Stopwatch();
    record.optimizer_ms += clock.lap();
  }

  // An entry that no rank's steps could move stays bitwise still.
  void outer_step(const std::vector<bool>& active) {
    const float* sum = s_.delta.grads().const_data_ptr<float>();
    float* common = common_.mutable_data_ptr<float>();
    float* momentum =
        momentum_.defined() ? momentum_.mutable_data_ptr<float>() : nullptr;
    const bool mean = options_.workers == ExchangeOptions::Workers::kIdentical;
    const auto ranks = static_cast<float>(mean ? comm_.size() : 1);
    const auto lr = static_cast<float>(options_.outer_lr);
    const auto mu = static_cast<float>(options_.outer_momentum);
    for (std::size_t e = 0; e < active.size(); ++e) {
      if (!active[e]) continue;
      const DeltaEntry& entry = s_.delta.entries()[e];
      for (std::int64_t i = entry.offset; i < entry.offset + entry.count; ++i) {
        float d = sum[i] / ranks;
        if (momentum != nullptr) {
          momentum[i] = mu * momentum[i] + d;
          d += mu * momentum[i];
        }
        common[i] += lr * d;
      }
    }
  }

  const ExchangeOptions& options_;
  at::Tensor owned_;     // bool [k]; undefined: all
  at::Tensor common_;    // fp32 [k], as of the last merge; this rank's own
                         // values while swapped
  at::Tensor momentum_;  // fp32 [k]; undefined when it is 0
  Window window_;
  std::uint32_t votes_ = 0;
  bool swapped_ = false;
  Stopwatch since_merge_;
};

}  // namespace

std::unique_ptr<Policy> make_local_steps(Policy::Setup setup,
                                         at::Tensor owned) {
  return std::make_unique<LocalSteps>(std::move(setup), std::move(owned));
}

}  // namespace thinwire
