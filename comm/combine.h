// Element-wise reduction of two buffers.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>

#include "comm/communicator.h"

namespace thinwire {

enum class Element { kFloat32, kFloat64, kInt64 };

constexpr std::size_t element_bytes(Element element) {
  return element == Element::kFloat32 ? 4 : 8;
}

// Throws UsageError naming `tag` for any other dtype.
Element element_of(const at::Tensor& tensor, std::string_view tag);

// out[i] = low[i] op high[i] for i < count. `low` comes from the lower rank, so
// that two ranks that combine the same pair get the same bits, NaN included
// (kMax and kMin hand NaN on). out may be low or high. Buffers are aligned to
// the element.
void combine(ReduceOp op, Element element, const std::byte* low,
             const std::byte* high, std::byte* out, std::size_t count);

}  // namespace thinwire
