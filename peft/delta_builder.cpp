#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <cstring>
#include <limits>
#include <nlohmann/json.hpp>
#include <utility>

#include "base/error.h"
#include "peft/delta.h"

namespace thinwire {
namespace {

constexpr std::int64_t kAlign = 4;  // numbers: 16 bytes

std::int64_t product(const std::vector<std::int64_t>& shape) {
  std::int64_t n = 1;
  for (const std::int64_t d : shape) {
    THINWIRE_ASSERT(d >= 0, "dimension {}", d);
    const bool overflow = __builtin_mul_overflow(n, d, &n);
    THINWIRE_ASSERT(!overflow, "a shape beyond 2^63 numbers");
  }
  return n;
}

template <class Int>
bool ascending_below(const at::Tensor& index, std::int64_t limit) {
  const Int* p = index.const_data_ptr<Int>();
  std::int64_t last = -1;
  for (std::int64_t i = 0; i < index.numel(); ++i) {
    if (p[i] <= last) return false;
    last = p[i];
  }
  return last < limit;
}

void check_index(const DeltaEntry& e) {
  const std::int64_t numel = product(e.shape);
  const auto wanted =
      numel > std::numeric_limits<std::int32_t>::max() ? at::kLong : at::kInt;
  THINWIRE_ASSERT(e.index.defined() && e.index.dim() == 1 &&
                      e.index.is_contiguous() &&
                      e.index.scalar_type() == wanted,
                  "index of '{}'", e.name);
  const bool good = wanted == at::kInt
                        ? ascending_below<std::int32_t>(e.index, numel)
                        : ascending_below<std::int64_t>(e.index, numel);
  THINWIRE_ASSERT(good, "index of '{}' is not ascending within {} numbers",
                  e.name, numel);
}

}  // namespace

int DeltaBuilder::group(const DeltaGroup& g) {
  auto& groups = delta_.groups_;
  const auto it = std::find(groups.begin(), groups.end(), g);
  if (it != groups.end()) return static_cast<int>(it - groups.begin());
  groups.push_back(g);
  return static_cast<int>(groups.size()) - 1;
}

std::string DeltaBuilder::method_of(int entry) const {
  const std::size_t stated = entry < static_cast<int>(owners_.size())
                                 ? owners_[static_cast<std::size_t>(entry)]
                                 : delta_.method_configs_.size();
  if (stated == 0) return "a method";
  const auto json =
      nlohmann::json::parse(delta_.method_configs_[stated - 1], nullptr, false);
  if (!json.is_object()) return "a method";
  return fmt::format("{} (peft.{})", json.value("method", "a method"),
                     stated - 1);
}

int DeltaBuilder::add(DeltaEntry entry, at::Tensor initial) {
  const int number = static_cast<int>(delta_.entries_.size());
  if (const auto it = by_name_.find(entry.name); it != by_name_.end()) {
    fail<UsageError>("{} and {} both train '{}'; keep one of them",
                     method_of(it->second), method_of(number), entry.name);
  }
  if (const auto it = by_target_.find(entry.target);
      !entry.target.empty() && it != by_target_.end()) {
    fail<UsageError>("{} and {} both train '{}'; exclude it from one of them",
                     method_of(it->second), method_of(number), entry.target);
  }
  THINWIRE_ASSERT(initial.defined() && initial.scalar_type() == at::kFloat,
                  "initial value of '{}'", entry.name);
  initial = initial.cpu();
  mask_inside(entry, initial);
  THINWIRE_ASSERT(
      entry.group >= 0 &&
          (delta_.groups_.empty()
               ? entry.group == 0
               : entry.group < static_cast<int>(delta_.groups_.size())),
      "group {} of '{}'", entry.group, entry.name);
  if (entry.kind == EntryKind::kDense) {
    THINWIRE_ASSERT(!entry.index.defined(), "dense '{}' with index",
                    entry.name);
    THINWIRE_ASSERT(initial.sizes() == at::IntArrayRef(entry.shape),
                    "initial shape of '{}'", entry.name);
    entry.count = product(entry.shape);
  } else {
    check_index(entry);
    THINWIRE_ASSERT(initial.sizes() == entry.index.sizes(),
                    "'{}': {} values, {} indices", entry.name, initial.numel(),
                    entry.index.numel());
    entry.count = entry.index.numel();
  }
  entry.offset = size_;
  size_ += (entry.count + kAlign - 1) / kAlign * kAlign;
  by_name_.emplace(entry.name, number);
  if (!entry.target.empty()) by_target_.emplace(entry.target, number);
  delta_.entries_.push_back(std::move(entry));
  initial_.push_back(std::move(initial));
  owners_.push_back(delta_.method_configs_.size());
  return number;
}

void DeltaBuilder::constant(std::string name, at::Tensor tensor) {
  const bool fresh =
      delta_.constants_.emplace(name, tensor.detach().contiguous()).second;
  if (!fresh) fail<UsageError>("two methods hold a constant '{}'", name);
}

void DeltaBuilder::buffer(std::string name, at::Tensor tensor,
                          BufferRule rule) {
  const bool fresh =
      delta_.buffers_.emplace(name, Delta::Buffer{std::move(tensor), rule})
          .second;
  if (!fresh) fail<UsageError>("two methods hold a buffer '{}'", name);
}

void DeltaBuilder::method_config(std::string json) {
  if (!in_parts_) delta_.method_configs_.push_back(std::move(json));
}

void DeltaBuilder::parts(const std::function<void()>& declare) {
  THINWIRE_ASSERT(!delta_.method_configs_.empty(), "parts of no method");
  const bool before = std::exchange(in_parts_, true);
  declare();
  in_parts_ = before;
}

void DeltaBuilder::masked(const Masks& masks, Rest rest,
                          const std::function<void()>& declare) {
  THINWIRE_ASSERT(masks_ == nullptr, "a mask within a mask");
  masks_ = &masks;
  rest_ = rest;
  declare();
  masks_ = nullptr;
}

void DeltaBuilder::mask_inside(DeltaEntry& entry, at::Tensor& initial) {
  if (masks_ == nullptr || entry.kind != EntryKind::kDense ||
      !entry.target.empty()) {
    return;
  }
  const auto mask = masks_->find(entry.name);
  if (mask == masks_->end()) return;
  if (rest_ == Rest::kAsItBegins) {
    constant(rest_constant(entry.name), initial.clone());
  }
  entry.kind = EntryKind::kMasked;
  entry.index = mask->second;
  initial = initial.reshape({-1}).index_select(0, entry.index);
}

bool DeltaBuilder::trains(std::string_view target) const {
  return by_target_.contains(std::string(target));
}

Delta DeltaBuilder::build() {
  if (delta_.groups_.empty()) delta_.groups_.push_back({.name = "default"});
  Delta& d = delta_;
  d.values_ = at::zeros({size_}, at::kFloat);
  d.grads_ = at::zeros({size_}, at::kFloat);
  for (std::size_t i = 0; i < d.entries_.size(); ++i) {
    const DeltaEntry& e = d.entries_[i];
    const at::Tensor from = initial_[i].contiguous();
    if (e.count > 0) {
      std::memcpy(d.values_.mutable_data_ptr<float>() + e.offset,
                  from.const_data_ptr(), from.nbytes());
    }
    initial_[i].reset();
  }
  d.make_leaves(d.values_, d.grads_);
  Delta out = std::move(delta_);
  *this = DeltaBuilder();
  return out;
}

}  // namespace thinwire
