// oneDNN's micro-kernel for products of tiles, which LibTorch exports as
// at::native::cpublas::brgemm: where it may be called.
#pragma once

#include <c10/core/ScalarType.h>

#include "base/isa.h"

namespace thinwire {

// Whether tiles of this type (fp32; bf16 in pairs of rows) have one under
// isa() on this processor. Elsewhere it would fail.
inline bool has_micro_kernel(at::ScalarType type) {
#if defined(__x86_64__)
  static const bool fp32 = isa() >= Isa::kAvx2;
  static const bool bf16 =
      isa() == Isa::kAvx512 && __builtin_cpu_supports("avx512bf16");
  return type == at::kFloat ? fp32 : type == at::kBFloat16 && bf16;
#else
  return false;
#endif
}

}  // namespace thinwire
