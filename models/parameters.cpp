#include "models/parameters.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <numeric>
#include <span>

#include "base/error.h"
#include "base/nearest.h"
#include "models/sites.h"
#include "ops/masked_parameter.h"
#include "ops/quantise.h"
#include "ops/reference.h"

namespace thinwire {

int Parameters::add_matrix(std::string name, Matrix matrix) {
  const at::Tensor& scale = matrix.scale;
  if (!scale.defined()) {
    const int number = add(std::move(name), matrix.tensor);
    slots_.back().axes = matrix.axes;
    return number;
  }
  THINWIRE_ASSERT(
      matrix.tensor.scalar_type() == at::kChar &&
          matrix.tensor.is_contiguous() && scale.dim() == 1 &&
          scale.scalar_type() == at::kFloat &&
          scale.size(0) == out_in(matrix.tensor, matrix.axes).size(0) &&
          matrix.exact,
      "'{}' is not int8 [{}] with scales", name,
      fmt::join(matrix.tensor.sizes(), ", "));
  const int number = append(std::move(name), std::move(matrix.tensor), false);
  slots_.back().scale = std::move(matrix.scale);
  slots_.back().loaded_bytes +=
      static_cast<std::int64_t>(slots_.back().scale.nbytes());
  slots_.back().exact = std::move(matrix.exact);
  slots_.back().axes = matrix.axes;
  return number;
}

int Parameters::add(std::string name, at::Tensor frozen, bool head) {
  THINWIRE_ASSERT(frozen.defined() && frozen.is_contiguous() &&
                      (frozen.scalar_type() == at::kFloat ||
                       frozen.scalar_type() == at::kBFloat16) &&
                      !frozen.requires_grad(),
                  "parameter '{}' must be contiguous fp32 or bf16, no grad",
                  name);
  return append(std::move(name), std::move(frozen), head);
}

int Parameters::add_buffer(std::string name, at::Tensor frozen) {
  const int number = add(std::move(name), std::move(frozen));
  slots_.back().buffer = true;
  return number;
}

int Parameters::append(std::string name, at::Tensor frozen, bool head) {
  THINWIRE_ASSERT(find(name) < 0, "parameter '{}' exists", name);
  Slot slot;
  slot.name = name;
  slot.frozen = std::move(frozen);
  slot.loaded_bytes = static_cast<std::int64_t>(slot.frozen.nbytes());
  slot.head = head;
  slots_.push_back(std::move(slot));
  numbers_.emplace(std::move(name), size() - 1);
  return size() - 1;
}

int Parameters::find(std::string_view name) const {
  const auto at = numbers_.find(name);
  return at == numbers_.end() ? -1 : at->second;
}

int Parameters::require(std::string_view name) const {
  const int found = find(name);
  if (found >= 0) return found;
  std::vector<std::string> known;
  for (const auto& slot : slots_) known.push_back(slot.name);
  fail<UsageError>("the model has no parameter '{}' (the nearest is '{}')",
                   name, nearest(name, known));
}

at::Tensor Parameters::get(int number, const ForwardContext& ctx) const {
  const Slot& s = slot(number);
  if (s.leaf.defined() && !s.compute) return s.leaf;
  // An empty mask costs nothing: no gradient is ever computed for it.
  if (s.values.defined() && s.values.numel() > 0) {
    return masked_parameter(s.frozen, s.values, s.index);
  }
  if (s.compute) {
    at::Tensor computed = s.compute(ctx);
    THINWIRE_ASSERT(computed.sizes() == s.frozen.sizes(),
                    "'{}' was computed as [{}], declared as [{}]", s.name,
                    fmt::join(computed.sizes(), ", "),
                    fmt::join(s.frozen.sizes(), ", "));
    return computed;
  }
  return s.scale.defined() ? dequantise_rows(s.frozen, s.scale, s.axes)
                           : s.frozen;
}

Parameters::Use Parameters::use(int number, const ForwardContext& ctx) const {
  const Slot& s = slot(number);
  if (s.scored) return {s.frozen, s.scored.get(), s.scale, s.axes};
  if (s.masked && !reference_ops()) {
    return {s.frozen, s.masked.get(), {}, s.axes};
  }
  if (s.scale.defined() && !trains(number)) {
    return {s.frozen, nullptr, s.scale, s.axes};
  }
  return {get(number, ctx), nullptr, {}, s.axes};
}

bool Parameters::trains(int number) const {
  const Slot& s = slot(number);
  return s.leaf.defined() || s.values.defined() || s.compute != nullptr;
}

Parameters::Slot& Parameters::untrained(int number) {
  Slot& s = slots_[static_cast<std::size_t>(number)];
  THINWIRE_ASSERT(!s.buffer, "'{}' is no parameter", s.name);
  if (trains(number)) {
    fail<UsageError>("two methods want to train '{}'; leave it to one of them",
                     s.name);
  }
  return s;
}

void Parameters::set_leaf(int number, at::Tensor leaf) {
  Slot& s = untrained(number);
  if (leaf.sizes() != s.frozen.sizes()) {
    fail<UsageError>("'{}' has shape [{}] in the delta, [{}] in the model",
                     s.name, fmt::join(leaf.sizes(), ", "),
                     fmt::join(s.frozen.sizes(), ", "));
  }
  s.leaf = std::move(leaf);
}

void Parameters::set_masked(int number, at::Tensor values, at::Tensor index) {
  Slot& s = untrained(number);
  THINWIRE_ASSERT(values.dim() == 1 && index.sizes() == values.sizes(),
                  "'{}': {} values, {} positions", s.name, values.numel(),
                  index.numel());
  if (values.numel() > 0) {
    THINWIRE_ASSERT(!s.scale.defined(), "numbers of int8 '{}' train", s.name);
    s.masked = std::make_shared<MaskedWeight>(s.frozen, values, index, s.name);
  }
  s.values = std::move(values);
  s.index = std::move(index);
}

void Parameters::set_computed(
    int number, std::function<at::Tensor(const ForwardContext&)> compute) {
  Slot& s = slots_[static_cast<std::size_t>(number)];
  const bool from_leaf = s.leaf.defined() && !s.compute;
  (from_leaf ? s : untrained(number)).compute = std::move(compute);
}

void Parameters::set_scored(int number,
                            std::shared_ptr<ScoredWeight> scored) const {
  THINWIRE_ASSERT(!trains(number), "'{}' trains while it is scored",
                  slot(number).name);
  slot(number).scored = std::move(scored);
}

void Parameters::freeze_all() {
  for (Slot& s : slots_) {
    s.scored = nullptr;
    s.leaf.reset();
    s.values.reset();
    s.index.reset();
    s.masked = nullptr;
    s.compute = nullptr;
  }
}

at::Tensor Parameters::initial(int number) const {
  const Slot& s = slot(number);
  return s.exact ? s.exact().to(s.frozen.device()) : s.frozen;
}

at::Tensor Parameters::writable(int number) {
  Slot& s = slots_[static_cast<std::size_t>(number)];
  s.frozen = initial(number);
  s.scale.reset();
  s.exact = nullptr;
  return s.frozen;
}

std::int64_t Parameters::loaded_bytes(int number) const {
  return slot(number).loaded_bytes;
}

std::int64_t Parameters::writable_bytes(int number) const {
  const Slot& s = slot(number);
  return s.exact
             ? s.frozen.numel() *
                   static_cast<std::int64_t>(c10::elementSize(at::kBFloat16))
             : static_cast<std::int64_t>(s.frozen.nbytes());
}

at::Tensor Parameters::widen(int number) {
  const at::Tensor wide = writable(number).to(at::kFloat);
  slots_[static_cast<std::size_t>(number)].frozen = wide;
  return wide;
}

void Parameters::move_to(at::Device device) {
  if (device == this->device()) return;
  identity_ = identity();
  for (Slot& s : slots_) {
    THINWIRE_ASSERT(!trains(find(s.name)), "'{}' moves while it trains",
                    s.name);
    s.frozen = s.frozen.to(device);
    if (s.scale.defined()) s.scale = s.scale.to(device);
  }
}

at::Device Parameters::device() const {
  return slots_.empty() ? at::Device(at::kCPU) : slots_.front().frozen.device();
}

std::int64_t Parameters::count(bool with_head) const {
  std::int64_t n = 0;
  for (const Slot& s : slots_) {
    if (!s.buffer && (with_head || !s.head)) n += s.frozen.numel();
  }
  return n;
}

std::string_view dtype_name(at::ScalarType dtype) {
  THINWIRE_ASSERT(
      dtype == at::kFloat || dtype == at::kBFloat16 || dtype == at::kChar,
      "a weight of {}", c10::toString(dtype));
  if (dtype == at::kChar) return "I8";
  return dtype == at::kFloat ? "F32" : "BF16";
}

Digest digest_of(const at::Tensor& tensor) {
  return hash128({static_cast<const std::byte*>(tensor.const_data_ptr()),
                  static_cast<std::size_t>(tensor.nbytes())});
}

Digest digest_of(const at::Tensor& tensor, const at::Tensor& scale) {
  const Digest digest = digest_of(tensor);
  if (!scale.defined()) return digest;
  return Hasher().string(digest.hex()).string(digest_of(scale).hex()).digest();
}

Digest backbone_identity(std::vector<TensorDigest> tensors) {
  std::ranges::sort(tensors, {}, &TensorDigest::name);
  Hasher hasher;
  for (const TensorDigest& t : tensors) {
    hasher.string(t.name).number(static_cast<std::int64_t>(t.shape.size()));
    for (const std::int64_t d : t.shape) hasher.number(d);
    hasher.string(dtype_name(t.dtype)).string(t.digest.hex());
  }
  return hasher.digest();
}

Digest Parameters::digest(int number) const {
  return digest_of(slot(number).frozen, slot(number).scale);
}

Digest Parameters::identity() const {
  if (identity_) return *identity_;
  std::vector<TensorDigest> tensors;
  for (int i = 0; i < size(); ++i) {
    const Slot& s = slot(i);
    if (s.head) continue;
    tensors.push_back(
        {s.name, s.frozen.scalar_type(), s.frozen.sizes().vec(), digest(i)});
  }
  return backbone_identity(std::move(tensors));
}

}  // namespace thinwire
