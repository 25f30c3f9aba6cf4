// Which instruction set our own kernels use, chosen at run time.
#pragma once

#include <string_view>

namespace thinwire {

enum class Isa {
  kPortable,
  kAvx2,    // AVX2 with FMA3
  kAvx512,  // AVX-512 F, BW, DQ, VL
};

std::string_view name_of(Isa isa) noexcept;  // portable, avx2, avx512

// The best that this processor runs, or a lower one that the environment
// variable THINWIRE_ISA names; fixed at the first call. Libraries (BLAS,
// oneDNN) choose for themselves. Throws UsageError when the variable holds
// another word, or one that the processor lacks.
Isa isa();

// What isa() decides, from its two inputs; `wanted` empty: `best`.
Isa choose_isa(std::string_view wanted, Isa best);

}  // namespace thinwire
