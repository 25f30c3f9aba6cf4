#include "peft/delta_arithmetic.h"

#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <cmath>
#include <numeric>

#include "base/error.h"

namespace thinwire {
namespace {

void require_one_backbone(std::span<const NamedDelta> deltas) {
  for (const NamedDelta& d : deltas) {
    if (d.file.backbone == deltas[0].file.backbone) continue;
    fail<UsageError>(
        "{} was made for backbone {}, {} for {}; arithmetic needs one",
        deltas[0].path, deltas[0].file.backbone.hex(), d.path,
        d.file.backbone.hex());
  }
}

// What differs first between two layouts, for a person.
std::string difference(const Delta& a, const Delta& b) {
  if (a.entries().size() != b.entries().size()) {
    return fmt::format("{} entries and {}", a.entries().size(),
                       b.entries().size());
  }
  for (std::size_t i = 0; i < a.entries().size(); ++i) {
    const DeltaEntry &x = a.entries()[i], &y = b.entries()[i];
    if (x.name != y.name) {
      return fmt::format("entry {} is '{}' and '{}'", i, x.name, y.name);
    }
    if (x.shape != y.shape) {
      return fmt::format("'{}' is [{}] and [{}]", x.name,
                         fmt::join(x.shape, ", "), fmt::join(y.shape, ", "));
    }
    if (x.kind != y.kind || x.count != y.count ||
        (x.index.defined() && !x.index.equal(y.index))) {
      return fmt::format(
          "'{}' trains other positions (`delta intersect` keeps the common "
          "ones)",
          x.name);
    }
  }
  return "they differ in constants or groups";
}

at::Tensor began_at(const DeltaEntry& e, const Parameters& parameters) {
  const at::Tensor whole =
      parameters.initial(parameters.require(e.target)).to(at::kFloat);
  if (whole.sizes() != at::IntArrayRef(e.shape)) {
    fail<UsageError>("'{}' is [{}] here, [{}] in the delta", e.target,
                     fmt::join(whole.sizes(), ", "), fmt::join(e.shape, ", "));
  }
  if (e.kind == EntryKind::kDense) return whole.reshape({-1});
  return whole.reshape({-1}).index_select(0, e.index);
}

// Positions of `a` that are also in `b`, both ascending: places in a.
template <class T>
std::vector<std::int64_t> common(const at::Tensor& a, const at::Tensor& b) {
  const auto *x = a.const_data_ptr<T>(), *y = b.const_data_ptr<T>();
  std::vector<std::int64_t> places;
  for (std::int64_t i = 0, j = 0; i < a.numel() && j < b.numel();) {
    if (x[i] == y[j]) places.push_back(i);
    const bool step_b = y[j] <= x[i];
    if (x[i] <= y[j]) ++i;
    if (step_b) ++j;
  }
  return places;
}

// Of the first delta's entry: the places that every delta has; places of a
// dense one are not asked for.
std::vector<std::int64_t> places_of(const DeltaEntry& e,
                                    std::span<const NamedDelta> deltas) {
  std::vector<std::int64_t> places(static_cast<std::size_t>(e.count));
  std::iota(places.begin(), places.end(), std::int64_t{0});
  for (const NamedDelta& d : deltas.subspan(1)) {
    const int other = d.file.delta.find(e.name);
    if (other < 0 && e.kind == EntryKind::kMasked) return {};
    const DeltaEntry* o =
        other < 0 ? nullptr
                  : &d.file.delta.entries()[static_cast<std::size_t>(other)];
    if (o == nullptr || o->kind != e.kind || o->shape != e.shape) {
      fail<UsageError>("'{}' of {} is not the same in {}", e.name,
                       deltas[0].path, d.path);
    }
    if (e.kind == EntryKind::kDense) continue;
    const at::Tensor kept = e.index.index_select(0, at::tensor(places));
    const auto among = e.index.scalar_type() == at::kInt
                           ? common<std::int32_t>(kept, o->index)
                           : common<std::int64_t>(kept, o->index);
    std::vector<std::int64_t> next;
    for (const std::int64_t i : among) {
      next.push_back(places[static_cast<std::size_t>(i)]);
    }
    places = std::move(next);
  }
  return places;
}

}  // namespace

void require_alike(std::span<const NamedDelta> deltas) {
  require_one_backbone(deltas);
  for (const NamedDelta& d : deltas) {
    if (d.file.delta.hash() == deltas[0].file.delta.hash()) continue;
    fail<UsageError>("{} and {} have different layouts: {}", deltas[0].path,
                     d.path, difference(deltas[0].file.delta, d.file.delta));
  }
}

at::Tensor origin_of(const Delta& delta, const Backbone& backbone,
                     std::vector<std::unique_ptr<Method>>& methods,
                     std::uint64_t seed) {
  // A mask would only be drawn anew: declared is what must be.
  const auto stands_alone = [](const DeltaEntry& e) {
    return e.target.empty() && e.meaning == Meaning::kAbsolute;
  };
  DeltaBuilder builder;
  if (std::ranges::any_of(delta.entries(), stands_alone)) {
    for (const auto& method : methods) {
      method->declare(builder, backbone, {.seed = seed, .whole = true});
    }
  }
  const Delta initial = builder.build();
  at::Tensor origin = at::zeros({delta.size()}, at::kFloat);
  for (const DeltaEntry& e : delta.entries()) {
    if (e.meaning == Meaning::kDifference) continue;
    at::Tensor to = origin.narrow(0, e.offset, e.count);
    if (!e.target.empty()) {
      to.copy_(began_at(e, backbone.parameters()));
      continue;
    }
    const int declared = initial.find(e.name);
    if (declared < 0 ||
        initial.entries()[static_cast<std::size_t>(declared)].shape !=
            e.shape) {
      fail<UsageError>("'{}': its method does not declare it on this model",
                       e.name);
    }
    const at::Tensor whole = initial.whole(declared).view({-1});
    to.copy_(e.kind == EntryKind::kDense ? whole
                                         : whole.index_select(0, e.index));
  }
  return origin;
}

void combine(std::span<NamedDelta> deltas, std::span<const double> weights,
             const at::Tensor& origin) {
  THINWIRE_ASSERT(deltas.size() == weights.size(), "{} deltas, {} weights",
                  deltas.size(), weights.size());
  const double sum = std::accumulate(weights.begin(), weights.end(), 0.0);
  THINWIRE_ASSERT(origin.defined() || std::fabs(sum - 1) < 1e-9,
                  "weights sum to {}, and there is no origin", sum);
  at::Tensor out = at::zeros({deltas[0].file.delta.size()}, at::kDouble);
  for (std::size_t i = 0; i < deltas.size(); ++i) {
    out.add_(deltas[i].file.delta.values().to(at::kDouble), weights[i]);
  }
  if (origin.defined()) out.add_(origin.to(at::kDouble), 1 - sum);
  deltas[0].file.delta.restore(out.to(at::kFloat));
}

Delta intersect(std::span<const NamedDelta> deltas) {
  require_one_backbone(deltas);
  const Delta& first = deltas[0].file.delta;
  DeltaBuilder builder;
  for (const std::string& config : first.method_configs()) {
    builder.method_config(config);
  }
  for (const DeltaGroup& group : first.groups()) builder.group(group);
  std::map<std::string, at::Tensor> constants = first.constants();
  std::int64_t left = 0;
  for (DeltaEntry e : first.entries()) {
    const at::Tensor numbers =
        first.values().slice(0, e.offset, e.offset + e.count);
    const std::vector<std::int64_t> places = places_of(e, deltas);
    const auto owner = constants.find(owner_constant(e.name));
    const bool read_whole = e.target.empty();  // even of nothing
    if (places.empty() && !read_whole) {
      if (owner != constants.end()) constants.erase(owner);
      continue;
    }
    left += static_cast<std::int64_t>(places.size());
    if (e.kind == EntryKind::kDense) {
      builder.add(e, numbers.view(e.shape));
      continue;
    }
    const at::Tensor at = at::tensor(places);
    if (owner != constants.end()) {
      owner->second = owner->second.index_select(0, at);
    }
    e.index = e.index.index_select(0, at);
    builder.add(e, numbers.index_select(0, at));
  }
  if (left == 0) {
    fail<UsageError>("{} and the others mask no position in common",
                     deltas[0].path);
  }
  for (auto& [name, tensor] : constants) builder.constant(name, tensor);
  for (const auto& [name, buffer] : first.buffers()) {
    builder.buffer(name, buffer.tensor, buffer.rule);
  }
  return builder.build();
}

}  // namespace thinwire
