#define TORCH_ASSERT_ONLY_METHOD_OPERATORS
#include "peft/pruned_weights.h"

#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>

#include <bit>
#include <cstdint>

#include "base/error.h"
#include "models/parameters.h"
#include "models/sites.h"

namespace thinwire {
namespace {

constexpr std::string_view kPruned = "pruned.";

}  // namespace

std::string pruned_constant(std::string_view target) {
  return std::string(kPruned) + std::string(target);
}

at::Tensor pack_bits(const at::Tensor& removed) {
  THINWIRE_ASSERT(removed.scalar_type() == at::kBool, "bits of {}",
                  c10::toString(removed.scalar_type()));
  const at::Tensor flat = removed.contiguous();
  const std::int64_t n = flat.numel();
  at::Tensor bits = at::zeros({(n + 7) / 8}, at::kByte);
  const auto* from = flat.const_data_ptr<bool>();
  auto* to = bits.mutable_data_ptr<std::uint8_t>();
  for (std::int64_t i = 0; i < n; ++i) {
    to[i / 8] = static_cast<std::uint8_t>(to[i / 8] | from[i] << i % 8);
  }
  return bits;
}

at::Tensor unpack_bits(const at::Tensor& bits, at::IntArrayRef shape,
                       std::string_view target) {
  at::Tensor removed = at::empty(shape, at::kBool);
  const std::int64_t n = removed.numel();
  if (bits.scalar_type() != at::kByte || bits.numel() != (n + 7) / 8) {
    fail<UsageError>(
        "delta: {} bytes say what is pruned of the {} numbers of "
        "'{}'; {} would",
        bits.nbytes(), n, target, (n + 7) / 8);
  }
  const auto* from = bits.const_data_ptr<std::uint8_t>();
  auto* to = removed.mutable_data_ptr<bool>();
  for (std::int64_t i = 0; i < n; ++i) to[i] = (from[i / 8] >> i % 8 & 1) != 0;
  return removed;
}

std::map<std::string, at::Tensor> pruned_bits(const Constants& constants) {
  std::map<std::string, at::Tensor> out;
  for (const auto& [name, tensor] : constants) {
    if (name.starts_with(kPruned)) out[name.substr(kPruned.size())] = tensor;
  }
  return out;
}

std::int64_t count_bits(const at::Tensor& bits) {
  const auto* p = bits.const_data_ptr<std::uint8_t>();
  std::int64_t n = 0;
  for (std::int64_t i = 0; i < bits.numel(); ++i) n += std::popcount(p[i]);
  return n;
}

void prune(const Constants& constants, Parameters& parameters) {
  const at::NoGradGuard no_grad;
  for (const auto& [target, bits] : pruned_bits(constants)) {
    const at::Tensor frozen = parameters.writable(parameters.require(target));
    frozen.masked_fill_(
        unpack_bits(bits, frozen.sizes(), target).to(frozen.device()), 0);
  }
}

LiveWidths live_widths(const Constants& constants, const Parameters& parameters,
                       const Site& site) {
  const Parameters::Slot& slot = parameters.slot(site.weight);
  const auto bits = constants.find(pruned_constant(slot.name));
  if (bits == constants.end()) return {site.d_in, site.d_out};
  const at::Tensor left =
      out_in(unpack_bits(bits->second, slot.frozen.sizes(), slot.name),
             slot.axes)
          .logical_not();
  const auto some = [&](std::int64_t dimension) {
    return left.any(dimension).sum().item<std::int64_t>();
  };
  return {some(0), some(1)};
}

}  // namespace thinwire
