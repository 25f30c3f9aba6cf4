#include "dist/optimizer.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>
#include <ATen/ops/zeros_like.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <utility>

#include "base/error.h"
#include "ops/optimizer_pass.h"

namespace thinwire {
namespace {

constexpr const char* kUpdates = "updates";
constexpr const char* kInitial = "initial";
constexpr const char* kCorrection1 = "correction1";
constexpr const char* kCorrection2 = "correction2";

bool decays_to_initial(const Delta& delta) {
  return std::ranges::any_of(
      delta.groups(), [](const DeltaGroup& g) { return g.decay_to_initial; });
}

}  // namespace

Optimizer::Optimizer(const TrainOptions& options, const Delta& delta)
    : options_(options),
      adamw_(options.optimizer == "adamw"),
      updates_(delta.entries().size(), 0) {
  THINWIRE_ASSERT(adamw_ || options.optimizer == "sgd", "optimizer '{}'",
                  options.optimizer);
  std::vector<const char*> names;
  if (adamw_) names = {"m", "v"};
  if (!adamw_ && options.momentum != 0) names = {"velocity"};
  for (const char* name : names) {
    vectors_.push_back({name, at::zeros({delta.size()}, at::kFloat)});
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

// Of every number what updates_ says of its entry.
void Optimizer::add_corrections(const Delta& delta) {
  for (const auto& [name, beta] : {std::pair(kCorrection1, options_.beta1),
                                   std::pair(kCorrection2, options_.beta2)}) {
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

void Optimizer::drop_corrections() {
  std::erase_if(vectors_, [](const Vector& v) {
    return v.name == kCorrection1 || v.name == kCorrection2;
  });
}

void Optimizer::step(Delta& delta, const std::vector<bool>& active, double lr,
                     const std::vector<double>& scale) {
  const auto& entries = delta.entries();
  float* values = delta.values().mutable_data_ptr<float>();
  const float* grads = delta.grads().const_data_ptr<float>();
  float* m = vector("m");
  float* v = vector("v");
  float* velocity = vector("velocity");
  const float* initial = vector(kInitial);
  float* correction1 = vector(kCorrection1);
  float* correction2 = vector(kCorrection2);

  for (std::size_t first = 0; first < entries.size();) {
    // Neighbours that are treated alike go in one pass; the gaps between them
    // are zeros, and zeros they stay.
    std::size_t last = first;
    while (last + 1 < entries.size() && active[last + 1] == active[first] &&
           entries[last + 1].group == entries[first].group &&
           (correction1 != nullptr || updates_[last + 1] == updates_[first])) {
      ++last;
    }
    if (active[first]) {
      const std::int64_t at = entries[first].offset;
      const std::int64_t n = entries[last].offset + entries[last].count - at;
      const auto g = static_cast<std::size_t>(entries[first].group);
      const DeltaGroup& group = delta.groups()[g];
      const float* towards = group.decay_to_initial ? initial + at : nullptr;
      const double rate = lr * group.lr_factor;
      const double decay = options_.weight_decay * group.weight_decay_factor;
      if (adamw_) {
        const AdamwStep now{.lr = rate,
                            .beta1 = options_.beta1,
                            .beta2 = options_.beta2,
                            .epsilon = options_.epsilon,
                            .weight_decay = decay,
                            .step = updates_[first] + 1,
                            .grad_scale = scale[g]};
        if (correction1 == nullptr) {
          adamw_pass(values + at, grads + at, m + at, v + at, towards, n, now);
        } else {
          adamw_pass_by_age(values + at, grads + at, m + at, v + at,
                            correction1 + at, correction2 + at, towards, n,
                            now);
        }
      } else {
        sgd_pass(values + at, grads + at,
                 velocity == nullptr ? nullptr : velocity + at, towards, n,
                 {.lr = rate,
                  .momentum = options_.momentum,
                  .weight_decay = decay,
                  .grad_scale = scale[g],
                  .nesterov = options_.nesterov});
      }
      for (std::size_t e = first; e <= last; ++e) ++updates_[e];
    }
    first = last + 1;
  }
}

NamedTensors Optimizer::state() const {
  NamedTensors state;
  for (const Vector& v : vectors_) state.emplace_back(v.name, v.tensor);
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
  drop_corrections();
  for (const char* name : {kCorrection1, kCorrection2}) {
    if (std::ranges::any_of(state, [&](const auto& s) {
          return s.first == name;
        })) {
      vectors_.push_back({name, at::zeros_like(vectors_.front().tensor)});
    }
  }
  for (Vector& v : vectors_) {
    const at::Tensor t = find(v.name, at::kFloat, v.tensor.numel());
    std::memcpy(v.tensor.mutable_data_ptr(), t.const_data_ptr(), t.nbytes());
  }
  const auto entries = static_cast<std::int64_t>(updates_.size());
  const at::Tensor t = find(kUpdates, at::kLong, entries);
  std::copy_n(t.const_data_ptr<std::int64_t>(), entries, updates_.begin());
}

void Optimizer::relayout(const Delta& old, const Relayout& to,
                         StatePolicy policy) {
  const Delta& next = to.delta;
  const bool counted = vector(kCorrection1) == nullptr;  // by updates_
  if (adamw_ && counted) add_corrections(old);
  forget_others();
  // Counts travel as one more state vector, so that they follow the policy.
  at::Tensor counts = at::zeros({old.size()}, at::kFloat);
  for (std::size_t i = 0; i < updates_.size(); ++i) {
    const DeltaEntry& e = old.entries()[i];
    std::fill_n(counts.mutable_data_ptr<float>() + e.offset, e.count,
                static_cast<float>(updates_[i]));
  }
  counts = map_state(counts, old, to, policy);
  bool alike = counted && !owned_.defined(), fresh = true;
  updates_.clear();
  for (const DeltaEntry& e : next.entries()) {
    const float* c = counts.const_data_ptr<float>() + e.offset;
    const auto [least, most] = std::minmax_element(c, c + e.count);
    updates_.push_back(e.count == 0 ? 0 : static_cast<std::int64_t>(*most));
    if (e.count == 0) continue;
    alike = alike && *least == *most;
    fresh = fresh && *most == 0;
  }
  owned_.reset();
  if (alike || fresh) drop_corrections();

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
}

}  // namespace thinwire
