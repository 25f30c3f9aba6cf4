#include "peft/delta.h"

#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <cstring>
#include <span>

#include "base/error.h"
#include "models/parameters.h"
#include "ops/masked_parameter.h"
#include "ops/masked_write.h"
#include "peft/pruned_weights.h"
#include "peft/residue.h"

namespace thinwire {
namespace {

std::span<const std::byte> tensor_bytes(const at::Tensor& t) {
  return {static_cast<const std::byte*>(t.const_data_ptr()),
          static_cast<std::size_t>(t.nbytes())};
}

void hash_tensor(Hasher& h, const at::Tensor& t) {
  h.string(c10::toString(t.scalar_type()));
  h.number(static_cast<std::int64_t>(t.dim()));
  for (const std::int64_t n : t.sizes()) h.number(n);
  h.bytes(tensor_bytes(t.contiguous()));
}

void hash_entry(Hasher& h, const DeltaEntry& e) {
  h.string(e.name).number(static_cast<std::int64_t>(e.kind));
  h.number(static_cast<std::int64_t>(e.shape.size()));
  for (const std::int64_t n : e.shape) h.number(n);
  h.number(e.offset).number(e.count);
  if (e.kind == EntryKind::kMasked) hash_tensor(h, e.index);
  h.string(e.target).number(static_cast<std::int64_t>(e.meaning));
  h.number(static_cast<std::int64_t>(e.group));
  h.number(static_cast<std::int64_t>(e.head ? 1 : 0));
  h.number(static_cast<std::int64_t>(e.active.tasks.size()));
  for (const std::int32_t t : e.active.tasks) h.number(std::int64_t{t});
  h.number(e.active.from_step).number(e.active.until_step);
}

void hash_group(Hasher& h, const DeltaGroup& g) {
  h.string(g.name).number(g.lr_factor).number(g.weight_decay_factor);
  h.number(static_cast<std::int64_t>(g.decay_to_initial ? 1 : 0));
  h.string(g.clip_group).string(g.codec);
}

// A tensor over `count` numbers of `whole` that has a version counter of its
// own: writing one entry must not look like writing another.
at::Tensor over(const at::Tensor& whole, std::int64_t offset,
                at::IntArrayRef shape) {
  at::Tensor t = at::empty({0}, whole.options());
  std::vector<std::int64_t> strides(shape.size(), 1);
  for (std::size_t i = shape.size(); i > 1; --i) {
    strides[i - 2] = strides[i - 1] * std::max<std::int64_t>(shape[i - 1], 1);
  }
  t.set_(whole.storage(), offset, shape, strides);
  return t;
}

// What earlier phases left, into the frozen weights.
void write_residue(const std::string& target, const Residue& residue,
                   Parameters& parameters) {
  const int slot = parameters.require(target);
  if (residue.index.defined()) {
    const at::Tensor frozen = parameters.writable(slot);
    const Positions at(residue.index);
    for (std::int64_t i = 0; i < at.size(); ++i) {
      if (at[i] < 0 || at[i] >= frozen.numel()) {
        fail<UsageError>("delta: the residue of '{}' reaches number {} of {}",
                         target, at[i], frozen.numel());
      }
    }
    write_masked(frozen, residue.values, residue.index);
    return;
  }
  const at::Tensor frozen = parameters.widen(slot);
  if (residue.values.sizes() != frozen.sizes() ||
      residue.values.scalar_type() != at::kFloat) {
    fail<UsageError>("delta: the residue of '{}' is [{}], the tensor [{}]",
                     target, fmt::join(residue.values.sizes(), ", "),
                     fmt::join(frozen.sizes(), ", "));
  }
  const at::NoGradGuard no_grad;
  frozen.copy_(residue.values);
}

}  // namespace

std::int64_t Delta::trainable() const {
  std::int64_t sum = 0;
  for (const DeltaEntry& e : entries_) sum += e.count;
  return sum;
}

int Delta::find(std::string_view name) const {
  const auto it =
      std::find_if(entries_.begin(), entries_.end(),
                   [&](const DeltaEntry& e) { return e.name == name; });
  return it == entries_.end() ? -1 : static_cast<int>(it - entries_.begin());
}

const at::Tensor& Delta::leaf(std::string_view name) const {
  const int entry = find(name);
  THINWIRE_ASSERT(entry >= 0, "the delta has no entry '{}'", name);
  const Whole& whole = wholes_[static_cast<std::size_t>(entry)];
  return whole.tensor.defined() ? whole.tensor : leaf(entry);
}

at::Tensor Delta::whole(int entry) const {
  const DeltaEntry& e = entries_[static_cast<std::size_t>(entry)];
  THINWIRE_ASSERT(e.target.empty(), "'{}' is of '{}'", e.name, e.target);
  const at::Tensor values = values_.narrow(0, e.offset, e.count);
  if (e.kind == EntryKind::kDense) return values.view(e.shape).clone();
  const auto rest = constants_.find(rest_constant(e.name));
  at::Tensor out = rest == constants_.end() ? at::zeros(e.shape, at::kFloat)
                                            : rest->second.clone();
  write_masked(out, values, e.index);
  return out;
}

void Delta::set_constant(const std::string& name, at::Tensor tensor) {
  constants_[name] = std::move(tensor);
}

std::string owner_constant(std::string_view entry) {
  return "owner." + std::string(entry);
}

std::string rest_constant(std::string_view entry) {
  return "rest." + std::string(entry);
}

Digest Delta::hash() const {
  Hasher h;
  h.number(static_cast<std::int64_t>(entries_.size()));
  for (const DeltaEntry& e : entries_) hash_entry(h, e);
  h.number(static_cast<std::int64_t>(groups_.size()));
  for (const DeltaGroup& g : groups_) hash_group(h, g);
  h.number(static_cast<std::int64_t>(constants_.size()));
  for (const auto& [name, tensor] : constants_) {
    h.string(name);
    hash_tensor(h, tensor);
  }
  return h.digest();
}

void Delta::make_leaves(const at::Tensor& values, const at::Tensor& grads) {
  leaves_.clear();
  for (const DeltaEntry& e : entries_) {
    const std::vector<std::int64_t> shape =
        e.kind == EntryKind::kDense ? e.shape
                                    : std::vector<std::int64_t>{e.count};
    at::Tensor leaf = over(values, e.offset, shape);
    leaf.requires_grad_(true);
    // A defined gradient is added to in place, so it stays where it is.
    leaf.mutable_grad() = over(grads, e.offset, shape);
    leaves_.push_back(std::move(leaf));
  }
  wholes_.assign(entries_.size(), {});
  for (std::size_t i = 0; i < entries_.size(); ++i) {
    const DeltaEntry& e = entries_[i];
    if (e.kind != EntryKind::kMasked || !e.target.empty()) continue;
    const at::Tensor index = e.index.to(values.device());
    wholes_[i] = {lasting_masked_parameter(at::zeros(e.shape, values.options()),
                                           leaves_[i], index),
                  index};
  }
  fill_wholes();
}

// The rest, and the values at the mask.
void Delta::fill_wholes() const {
  const at::NoGradGuard no_grad;
  for (std::size_t i = 0; i < entries_.size(); ++i) {
    if (!wholes_[i].tensor.defined()) continue;
    const DeltaEntry& e = entries_[i];
    const at::Tensor whole = wholes_[i].tensor.detach();
    const auto rest = constants_.find(rest_constant(e.name));
    if (rest == constants_.end()) {
      whole.zero_();
    } else if (rest->second.sizes() != whole.sizes() ||
               rest->second.scalar_type() != at::kFloat) {
      fail<UsageError>("delta: the rest of '{}' is [{}], the tensor [{}]",
                       e.name, fmt::join(rest->second.sizes(), ", "),
                       fmt::join(whole.sizes(), ", "));
    } else {
      whole.copy_(rest->second);
    }
    write_masked(whole, leaves_[i].detach(), wholes_[i].index);
  }
}

void Delta::place(at::Device device) {
  if (!values_.defined()) return;
  placed_values_ = values_.to(device, at::kFloat, /*non_blocking=*/false,
                              /*copy=*/true);
  placed_grads_ = at::zeros({size()}, placed_values_.options());
  make_leaves(placed_values_, placed_grads_);
}

void Delta::pull_grads() {
  if (!placed()) return;
  const at::NoGradGuard no_grad;
  grads_.add_(placed_grads_.cpu());
  placed_grads_.zero_();
}

void Delta::zero_grads() {
  if (size() > 0) std::memset(grads_.data_ptr(), 0, grads_.nbytes());
  if (placed()) placed_grads_.zero_();
}

void Delta::bind(Parameters& parameters) const {
  std::vector<int> slots(entries_.size(), -1);
  const auto pruned = pruned_bits(constants_);
  for (std::size_t i = 0; i < entries_.size(); ++i) {
    const DeltaEntry& e = entries_[i];
    if (e.target.empty()) continue;
    if (e.meaning != Meaning::kAbsolute) {
      fail<UsageError>(
          "delta: entry '{}' holds differences from '{}'; add them to its "
          "weights before training on",
          e.name, e.target);
    }
    if (pruned.contains(e.target)) {
      fail<UsageError>(
          "delta: entry '{}' trains '{}', of which numbers were removed; leave "
          "that tensor to one method",
          e.name, e.target);
    }
    slots[i] = parameters.require(e.target);
    const auto shape = parameters.slot(slots[i]).frozen.sizes();
    if (shape != at::IntArrayRef(e.shape)) {
      fail<UsageError>(
          "delta: entry '{}' is for a tensor of shape [{}], but '{}' of this "
          "backbone is [{}]",
          e.name, fmt::join(e.shape, ", "), e.target, fmt::join(shape, ", "));
    }
    if (parameters.trains(slots[i]) ||
        std::find(slots.begin(), slots.begin() + static_cast<long>(i),
                  slots[i]) != slots.begin() + static_cast<long>(i)) {
      fail<UsageError>("delta: entry '{}' wants '{}', which trains already",
                       e.name, e.target);
    }
  }
  for (const auto& [target, residue] : residues(constants_)) {
    write_residue(target, residue, parameters);
  }
  prune(constants_, parameters);
  fill_wholes();  // constants may have changed
  for (std::size_t i = 0; i < entries_.size(); ++i) {
    if (slots[i] < 0) continue;
    if (entries_[i].kind == EntryKind::kDense) {
      parameters.set_leaf(slots[i], leaves_[i]);
    } else {
      write_masked(parameters.writable(slots[i]), leaves_[i],
                   entries_[i].index);
      parameters.set_masked(slots[i], leaves_[i], entries_[i].index);
    }
  }
}

std::vector<MaskedWrite> Delta::masked_writes(Parameters& parameters) const {
  std::vector<MaskedWrite> writes;
  if (placed()) return writes;
  for (std::size_t i = 0; i < entries_.size(); ++i) {
    const DeltaEntry& e = entries_[i];
    if (e.kind != EntryKind::kMasked) continue;
    const at::Tensor weight =
        e.target.empty() ? wholes_[i].tensor.detach()
                         : parameters.slot(parameters.require(e.target)).frozen;
    writes.push_back(masked_write(weight, e.index, e.offset));
  }
  return writes;
}

void Delta::write_back(Parameters& parameters) const {
  if (placed()) {
    const at::NoGradGuard no_grad;
    placed_values_.detach().copy_(values_);
    for (std::size_t i = 0; i < entries_.size(); ++i) {
      const DeltaEntry& e = entries_[i];
      if (e.kind != EntryKind::kMasked) continue;
      if (e.target.empty()) {
        write_masked(wholes_[i].tensor.detach(), leaves_[i].detach(),
                     wholes_[i].index);
        continue;
      }
      const Parameters::Slot& slot =
          parameters.slot(parameters.require(e.target));
      write_masked(slot.frozen, leaves_[i].detach(),
                   slot.masked ? slot.masked->index() : e.index);
    }
    return;
  }
  const std::vector<MaskedWrite> writes = masked_writes(parameters);
  write_range(writes, values_.const_data_ptr<float>(), 0, size());
}

void Delta::unbind(Parameters& parameters) const {
  const at::NoGradGuard no_grad;
  write_back(parameters);
  for (std::size_t i = 0; i < entries_.size(); ++i) {
    const DeltaEntry& e = entries_[i];
    if (e.kind != EntryKind::kDense || e.target.empty()) continue;
    parameters.widen(parameters.require(e.target)).copy_(leaves_[i]);
  }
  parameters.freeze_all();
}

at::Tensor Delta::snapshot() const { return values_.clone(); }

void Delta::restore(const at::Tensor& snapshot) {
  THINWIRE_ASSERT(snapshot.numel() == size() && snapshot.is_contiguous() &&
                      snapshot.scalar_type() == at::kFloat,
                  "snapshot of {} numbers, delta of {}", snapshot.numel(),
                  size());
  std::memcpy(values_.data_ptr(), snapshot.const_data_ptr(), values_.nbytes());
}

void Delta::swap(at::Tensor& other) {
  THINWIRE_ASSERT(other.numel() == size() && other.is_contiguous() &&
                      other.scalar_type() == at::kFloat,
                  "swap with {} numbers, delta of {}", other.numel(), size());
  float* a = values_.mutable_data_ptr<float>();
  std::swap_ranges(a, a + size(), other.mutable_data_ptr<float>());
}

MaskedBytes masked_bytes(const Parameters& parameters, const Delta& delta) {
  MaskedBytes bytes;
  const auto add = [&](const std::string& target) {
    const int slot = parameters.require(target);
    bytes.before += parameters.loaded_bytes(slot);
    bytes.after += parameters.writable_bytes(slot);
  };
  for (const DeltaEntry& e : delta.entries()) {
    if (e.kind != EntryKind::kMasked || e.target.empty() || e.count == 0) {
      continue;
    }
    add(e.target);
  }
  for (const auto& [target, bits] : pruned_bits(delta.constants())) add(target);
  return bytes;
}

}  // namespace thinwire
