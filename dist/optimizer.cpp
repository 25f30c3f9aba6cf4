#include "dist/optimizer.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <iterator>
#include <utility>

#include "base/error.h"
#include "ops/masked_write.h"
#include "ops/optimizer_pass.h"

namespace thinwire {
namespace {

constexpr const char* kUpdates = "updates";
constexpr const char* kInitial = "initial";
constexpr const char* kCorrection1 = "correction1";
constexpr const char* kCorrection2 = "correction2";
constexpr const char* kAge = "age";

bool decays_to_initial(const Delta& delta) {
  return std::ranges::any_of(
      delta.groups(), [](const DeltaGroup& g) { return g.decay_to_initial; });
}

// The rate of Adafactor's own, of the step that is the count'th.
double relative_rate(const TrainOptions& o, std::int64_t count) {
  if (!o.relative_step) return 1;
  const auto t = static_cast<double>(count);
  return std::min(o.warmup_init ? 1e-6 * t : 1e-2, 1 / std::sqrt(t));
}

}  // namespace

Optimizer::Optimizer(const TrainOptions& options, const Delta& delta)
    : options_(options),
      rule_(options.optimizer == "adamw"  ? Rule::kAdamw
            : options.optimizer == "sgd"  ? Rule::kSgd
            : options.optimizer == "lion" ? Rule::kLion
                                          : Rule::kAdafactor),
      beta1_(options.beta1.value_or(0.9)),
      beta2_(options.beta2.value_or(rule_ == Rule::kLion ? 0.99 : 0.999)),
      size_(delta.size()),
      updates_(delta.entries().size(), 0) {
  THINWIRE_ASSERT(rule_ != Rule::kAdafactor || options.optimizer == "adafactor",
                  "optimizer '{}'", options.optimizer);
  switch (rule_) {
    case Rule::kAdamw:
      add_vector("m");
      add_vector("v");
      break;
    case Rule::kSgd:
      if (options.momentum != 0) add_vector("velocity");
      break;
    case Rule::kLion:
      add_vector("momentum");
      break;
    case Rule::kAdafactor:
      if (options.beta1) add_vector("mean");
      moments_.emplace(delta);
      break;
  }
  if (decays_to_initial(delta)) {
    vectors_.push_back({kInitial, delta.snapshot()});
  }
}

float* Optimizer::vector(std::string_view name) {
  for (Vector& v : vectors_) {
    if (v.name == name) return v.tensor.mutable_data_ptr<float>();
  }
  return nullptr;
}

void Optimizer::add_vector(const char* name) {
  vectors_.push_back({name, at::zeros({size_}, at::kFloat)});
}

// The steps that every number has made.
at::Tensor Optimizer::counts(const Delta& delta) {
  at::Tensor t = at::zeros({delta.size()}, at::kFloat);
  float* out = t.mutable_data_ptr<float>();
  if (const float* age = vector(kAge)) {
    std::copy_n(age, size_, out);
    return t;
  }
  for (std::size_t i = 0; i < updates_.size(); ++i) {
    const DeltaEntry& e = delta.entries()[i];
    std::fill_n(out + e.offset, e.count, static_cast<float>(updates_[i]));
  }
  return t;
}

// Of every number what updates_ says of its entry.
void Optimizer::add_corrections(const Delta& delta) {
  for (const auto& [name, beta] :
       {std::pair(kCorrection1, beta1_), std::pair(kCorrection2, beta2_)}) {
    at::Tensor t = at::zeros({delta.size()}, at::kFloat);
    for (std::size_t i = 0; i < updates_.size(); ++i) {
      const DeltaEntry& e = delta.entries()[i];
      std::fill_n(t.mutable_data_ptr<float>() + e.offset, e.count,
                  static_cast<float>(
                      1 - std::pow(beta, static_cast<double>(updates_[i]))));
    }
    vectors_.push_back({name, t});
  }
}

void Optimizer::drop_ages() {
  std::erase_if(vectors_, [](const Vector& v) {
    return v.name == kCorrection1 || v.name == kCorrection2 || v.name == kAge;
  });
}

void Optimizer::step_range(Delta& delta, const Range& r) {
  if (rule_ == Rule::kAdafactor) return step_entry(delta, r);
  float* values = delta.values().mutable_data_ptr<float>() + r.at;
  const float* grads = delta.grads().const_data_ptr<float>() + r.at;
  const auto state = [&](const char* name) {
    float* whole = vector(name);
    return whole == nullptr ? nullptr : whole + r.at;
  };
  const float* towards = r.to_initial ? state(kInitial) : nullptr;
  if (rule_ == Rule::kSgd) {
    return sgd_pass(values, grads, state("velocity"), towards, r.n,
                    {.lr = r.lr,
                     .momentum = options_.momentum,
                     .weight_decay = r.decay,
                     .grad_scale = r.scale,
                     .nesterov = options_.nesterov},
                    r.writes);
  }
  if (rule_ == Rule::kLion) {
    return lion_pass(values, grads, state("momentum"), towards, r.n,
                     {.lr = r.lr,
                      .beta1 = beta1_,
                      .beta2 = beta2_,
                      .weight_decay = r.decay,
                      .grad_scale = r.scale},
                     r.writes);
  }
  const AdamwStep now{.lr = r.lr,
                      .beta1 = beta1_,
                      .beta2 = beta2_,
                      .epsilon = options_.epsilon,
                      .weight_decay = r.decay,
                      .step = updates_[r.first] + 1,
                      .grad_scale = r.scale};
  if (by_number()) {
    adamw_pass_by_age(values, grads, state("m"), state("v"),
                      state(kCorrection1), state(kCorrection2), towards, r.n,
                      now, r.writes);
  } else {
    adamw_pass(values, grads, state("m"), state("v"), towards, r.n, now,
               r.writes);
  }
}

void Optimizer::step_entry(Delta& delta, const Range& r) {
  const std::int64_t count = updates_[r.first] + 1;
  float* age = vector(kAge);
  for (std::int64_t i = 0; age != nullptr && i < r.n; ++i) age[r.at + i] += 1;
  moments_->step(delta, r.first, vector("mean"), age,
                 r.to_initial ? vector(kInitial) : nullptr,
                 {.lr = r.lr * relative_rate(options_, count),
                  .beta1 = beta1_,
                  .clip_threshold = options_.clip_threshold,
                  .decay_rate = options_.decay_rate,
                  .epsilon1 = options_.epsilon1,
                  .epsilon2 = options_.epsilon2,
                  .weight_decay = r.decay,
                  .scale_parameter = options_.scale_parameter,
                  .step = count,
                  .grad_scale = r.scale},
                 r.writes);
}

void Optimizer::step(Delta& delta, const std::vector<bool>& active, double lr,
                     const std::vector<double>& scale, Parameters* into) {
  const auto& entries = delta.entries();
  const std::vector<MaskedWrite> all =
      into == nullptr ? std::vector<MaskedWrite>() : delta.masked_writes(*into);
  const bool single = rule_ == Rule::kAdafactor;
  const bool counted = !by_number();
  auto next_write = all.begin();
  for (std::size_t first = 0; first < entries.size();) {
    // Neighbours that are treated alike go in one pass; the gaps between them
    // are zeros, and zeros they stay.
    std::size_t last = first;
    while (!single && last + 1 < entries.size() &&
           active[last + 1] == active[first] &&
           entries[last + 1].group == entries[first].group &&
           (!counted || updates_[last + 1] == updates_[first])) {
      ++last;
    }
    const std::int64_t at = entries[first].offset;
    const std::int64_t end = entries[last].offset + entries[last].count;
    std::vector<MaskedWrite> writes;
    for (; next_write != all.end() && next_write->begin < end; ++next_write) {
      writes.push_back(*next_write);
      writes.back().begin -= at;
    }
    if (active[first]) {
      const auto g = static_cast<std::size_t>(entries[first].group);
      const DeltaGroup& group = delta.groups()[g];
      step_range(delta,
                 {.first = first,
                  .last = last,
                  .at = at,
                  .n = end - at,
                  .lr = lr * group.lr_factor,
                  .decay = options_.weight_decay * group.weight_decay_factor,
                  .scale = scale[g],
                  .to_initial = group.decay_to_initial,
                  .writes = writes});
      for (std::size_t e = first; e <= last; ++e) ++updates_[e];
    }
    first = last + 1;
  }
  if (into != nullptr && delta.placed()) delta.write_back(*into);
}

NamedTensors Optimizer::state() const {
  NamedTensors state;
  for (const Vector& v : vectors_) state.emplace_back(v.name, v.tensor);
  if (moments_)
    std::ranges::copy(moments_->tensors(), std::back_inserter(state));
  at::Tensor updates =
      at::empty({static_cast<std::int64_t>(updates_.size())}, at::kLong);
  std::ranges::copy(updates_, updates.mutable_data_ptr<std::int64_t>());
  state.emplace_back(kUpdates, updates);
  return state;
}

void Optimizer::load(const NamedTensors& state, const std::string& where) {
  const auto find = [&](const std::string& name, at::ScalarType type,
                        std::int64_t count) {
    for (const auto& [key, tensor] : state) {
      if (key != name) continue;
      if (tensor.scalar_type() != type || tensor.numel() != count) break;
      return tensor.contiguous();
    }
    fail<UsageError>(
        "{}: holds no optimizer state '{}' of {} numbers, which {} needs; "
        "resume with the optimizer the run was started with",
        where, name, count, options_.optimizer);
  };
  drop_ages();
  for (const char* name : {kCorrection1, kCorrection2, kAge}) {
    const auto named = [&](const auto& s) { return s.first == name; };
    if (std::ranges::any_of(state, named)) add_vector(name);
  }
  NamedTensors own;
  for (const Vector& v : vectors_) own.emplace_back(v.name, v.tensor);
  if (moments_) std::ranges::copy(moments_->tensors(), std::back_inserter(own));
  for (const auto& [name, tensor] : own) {
    const at::Tensor t = find(name, at::kFloat, tensor.numel());
    if (t.numel() == 0) continue;
    std::memcpy(tensor.mutable_data_ptr(), t.const_data_ptr(), t.nbytes());
  }
  const auto entries = static_cast<std::int64_t>(updates_.size());
  const at::Tensor t = find(kUpdates, at::kLong, entries);
  std::copy_n(t.const_data_ptr<std::int64_t>(), entries, updates_.begin());
}

void Optimizer::relayout(const Delta& old, const Relayout& to,
                         StatePolicy policy) {
  const Delta& next = to.delta;
  const bool counted = !by_number();  // by updates_
  if (rule_ == Rule::kAdamw && counted) add_corrections(old);
  forget_others();
  // Counts travel as one more state vector, so that they follow the policy.
  at::Tensor made = counts(old);
  if (moments_ && owned_.defined()) made.masked_fill_(owned_.logical_not(), 0);
  made = map_state(made, old, to, policy);
  float* count = made.mutable_data_ptr<float>();
  if (moments_) {
    const std::vector<bool> came = moments_->relayout(old, to, policy);
    for (std::size_t i = 0; i < came.size(); ++i) {
      const DeltaEntry& e = next.entries()[i];
      if (!came[i]) std::fill_n(count + e.offset, e.count, 0.0f);
    }
  }
  bool alike = moments_ || (counted && !owned_.defined()), fresh = true;
  updates_.clear();
  for (const DeltaEntry& e : next.entries()) {
    const float* c = count + e.offset;
    const auto [least, most] = std::minmax_element(c, c + e.count);
    updates_.push_back(e.count == 0 ? 0 : static_cast<std::int64_t>(*most));
    if (e.count == 0) continue;
    alike = alike && *least == *most;
    fresh = fresh && *most == 0;
  }
  owned_.reset();
  if (alike || fresh || moments_) drop_ages();
  size_ = next.size();

  std::vector<Vector> mapped;
  for (Vector& v : vectors_) {
    if (v.name == kInitial) continue;
    mapped.push_back({v.name, map_state(v.tensor, old, to, policy)});
    v.tensor.reset();
  }
  if (decays_to_initial(next)) {
    at::Tensor initial = next.snapshot();
    for (const Vector& v : vectors_) {
      if (v.name != kInitial) continue;
      const auto* source = to.source.const_data_ptr<std::int64_t>();
      const float* from = v.tensor.const_data_ptr<float>();
      float* out = initial.mutable_data_ptr<float>();
      for (std::int64_t i = 0; i < initial.numel(); ++i) {
        if (source[i] >= 0) out[i] = from[source[i]];
      }
    }
    mapped.push_back({kInitial, initial});
  }
  if (moments_ && !alike) mapped.push_back({kAge, made});
  vectors_ = std::move(mapped);
}

void Optimizer::keep_only(at::Tensor owned) {
  owned_ = std::move(owned);
  forget_others();
}

void Optimizer::forget_others() {
  if (!owned_.defined()) return;
  const bool* keep = owned_.const_data_ptr<bool>();
  for (Vector& v : vectors_) {
    if (v.name == kInitial) continue;
    float* x = v.tensor.mutable_data_ptr<float>();
    for (std::int64_t i = 0; i < v.tensor.numel(); ++i) {
      if (!keep[i]) x[i] = 0;
    }
  }
  if (moments_) moments_->forget(keep);
}

}  // namespace thinwire
