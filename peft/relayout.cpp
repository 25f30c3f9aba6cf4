#include "peft/relayout.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/full.h>
#include <ATen/ops/zeros.h>

#include <array>
#include <cstring>
#include <limits>
#include <optional>

#include "base/error.h"
#include "base/nearest.h"
#include "models/parameters.h"
#include "ops/masked_parameter.h"
#include "peft/pruned_weights.h"
#include "peft/residue.h"

namespace thinwire {
namespace {

constexpr std::array<std::string_view, 4> kPolicies = {"carry", "reset", "drop",
                                                       "rewind"};

// The entry of `old` that held the numbers of `e`: the same tensor of the
// backbone, or, for a method's own tensors, the same name.
const DeltaEntry* counterpart(const Delta& old, const DeltaEntry& e) {
  for (const DeltaEntry& o : old.entries()) {
    if (e.target.empty() ? o.target.empty() && o.name == e.name
                         : o.target == e.target) {
      return &o;
    }
  }
  return nullptr;
}

// Calls f(i, j) for the i-th number of `to` and the j-th of `from` wherever
// they are the same number of the tensor.
template <class F>
void for_each_common(const DeltaEntry& to, const DeltaEntry& from, const F& f) {
  const Positions a(to), b(from);
  std::int64_t i = 0, j = 0;
  while (i < a.size() && j < b.size()) {
    const std::int64_t pa = a[i], pb = b[j];
    if (pa == pb) {
      f(i++, j++);
    } else if (pa < pb) {
      ++i;
    } else {
      ++j;
    }
  }
}

// A tensor of a method's own of which a mask takes in or leaves out numbers:
// those taken in begin where they rested, those left out rest where they are,
// unless the method rests them at 0.
void carry_own(const Delta& old, const DeltaEntry& from, const DeltaEntry& to,
               Delta& next) {
  if (from.kind == EntryKind::kDense && to.kind == EntryKind::kDense) return;
  at::Tensor whole = old.whole(old.find(from.name));
  const at::Tensor flat = whole.view({-1});
  next.values()
      .narrow(0, to.offset, to.count)
      .copy_(to.kind == EntryKind::kDense ? flat
                                          : flat.index_select(0, to.index));
  const std::string rest = rest_constant(to.name);
  if (!next.constants().contains(rest)) return;
  // What still trains would rest where it would have, so that the layout is a
  // function of the mask and of what it left out.
  if (const auto was = old.constants().find(rest_constant(from.name));
      was != old.constants().end()) {
    write_masked(whole, was->second.view({-1}).index_select(0, to.index),
                 to.index);
  }
  next.set_constant(rest, whole);
}

bool same_support(const DeltaEntry& a, const DeltaEntry& b) {
  if (a.kind != b.kind || a.shape != b.shape || a.count != b.count) {
    return false;
  }
  return a.kind == EntryKind::kDense || a.index.equal(b.index);
}

}  // namespace

StatePolicy parse_state_policy(std::string_view name) {
  for (std::size_t i = 0; i < kPolicies.size(); ++i) {
    if (kPolicies[i] == name) return static_cast<StatePolicy>(i);
  }
  fail<UsageError>(
      "state policy '{}' is unknown; choose one of: {}", name,
      list_nearest_first(name, {"carry", "reset", "drop", "rewind"}));
}

Relayout relayout(const Delta& old, Delta next) {
  Relayout out;
  out.source = at::full({next.size()}, -1, at::kLong);
  auto* source = out.source.mutable_data_ptr<std::int64_t>();
  const auto* from = old.values().const_data_ptr<float>();
  auto* to = next.values().mutable_data_ptr<float>();
  for (const DeltaEntry& e : next.entries()) {
    const DeltaEntry* o = counterpart(old, e);
    if (o == nullptr) continue;
    if (o->shape != e.shape) {
      fail<UsageError>("relayout: '{}' was [{}] and is [{}] now", e.name,
                       fmt::join(o->shape, ", "), fmt::join(e.shape, ", "));
    }
    for_each_common(e, *o, [&](std::int64_t i, std::int64_t j) {
      source[e.offset + i] = o->offset + j;
      to[e.offset + i] = from[o->offset + j];
    });
    if (e.target.empty()) carry_own(old, *o, e, next);
  }
  for (const DeltaEntry& o : old.entries()) {
    if (!o.target.empty() || next.find(o.name) >= 0) continue;
    fail<UsageError>(
        "relayout: '{}' trained until now and no method keeps it; it belongs "
        "to no tensor of the backbone that could hold its value",
        o.name);
  }
  for (auto& [name, buffer] : next.buffers()) {
    const auto it = old.buffers().find(name);
    if (it != old.buffers().end() &&
        it->second.tensor.sizes() == buffer.tensor.sizes()) {
      buffer.tensor = it->second.tensor.clone();
    }
  }
  carry_residues(old, next);
  out.delta = std::move(next);
  return out;
}

void rewind(const Delta& old, Parameters& parameters) {
  for (const DeltaEntry& e : old.entries()) {
    if (e.target.empty() || e.kind != EntryKind::kMasked || e.count == 0) {
      continue;  // a method's own tensors begin anew
    }
    fail<UsageError>(
        "rewind: '{}' trains under a mask, which has written over the values "
        "of the start; only what trains whole can return to them",
        e.target);
  }
  for (const auto& [target, residue] : residues(old.constants())) {
    fail<UsageError>(
        "rewind: '{}' holds what an earlier phase trained; only what trains "
        "whole from the start can return to it",
        target);
  }
  for (const auto& [target, bits] : pruned_bits(old.constants())) {
    fail<UsageError>(
        "rewind: numbers of '{}' were removed, which nothing brings back; "
        "prune after the last rewind",
        target);
  }
  parameters.freeze_all();
}

Relayout rewound(Delta next) {
  Relayout out;
  out.source = at::full({next.size()}, -1, at::kLong);
  out.delta = std::move(next);
  return out;
}

at::Tensor map_state(const at::Tensor& state, const Delta& old,
                     const Relayout& to, StatePolicy policy) {
  THINWIRE_ASSERT(
      state.numel() == old.size() && state.scalar_type() == at::kFloat &&
          state.is_contiguous(),
      "state of {} numbers, delta of {}", state.numel(), old.size());
  at::Tensor out = at::zeros({to.delta.size()}, at::kFloat);
  if (policy == StatePolicy::kReset || policy == StatePolicy::kRewind) {
    return out;
  }
  const auto* from = state.const_data_ptr<float>();
  const auto* source = to.source.const_data_ptr<std::int64_t>();
  auto* mapped = out.mutable_data_ptr<float>();
  for (const DeltaEntry& e : to.delta.entries()) {
    if (policy == StatePolicy::kDrop) {
      const DeltaEntry* o = counterpart(old, e);
      if (o == nullptr || !same_support(e, *o)) continue;
    }
    for (std::int64_t i = e.offset; i < e.offset + e.count; ++i) {
      if (source[i] >= 0) mapped[i] = from[source[i]];
    }
  }
  return out;
}

}  // namespace thinwire
