// exp() of many numbers at once, lanes written out: the same bits whatever
// instruction set a clone is compiled for. Internal to ops/.
#pragma once

#include <cstdint>
#include <cstring>

namespace thinwire {

constexpr std::int64_t kVectorLanes = 16;
using Floats = float __attribute__((vector_size(64)));
using Ints = std::int32_t __attribute__((vector_size(64)));

#define THINWIRE_INLINE inline __attribute__((always_inline))

// References, not values: what a clone passes in registers differs.
THINWIRE_INLINE void load_lanes(Floats& out, const float* from) {
  std::memcpy(&out, from, sizeof(Floats));
}
THINWIRE_INLINE void store_lanes(float* to, const Floats& x) {
  std::memcpy(to, &x, sizeof(Floats));
}
THINWIRE_INLINE void max_lanes(Floats& out, const Floats& x) {
  out = x > out ? x : out;
}

// x = exp(x) for x <= 0, to 2 ulp; 0 below -86.6, NaN stays NaN. Cephes' expf:
// exp(x) = 2^n exp(r) with r = x - n log 2, |r| <= log(2) / 2.
THINWIRE_INLINE void exp_lanes(Floats& x) {
  constexpr float kLog2E = 1.44269504088896341f;
  constexpr float kLog2High = 0.693359375f, kLog2Low = -2.12194440e-4f;
  constexpr float kRounds = 12582912.0f;  // 1.5 * 2^23: n in its lowest bits
  constexpr float kSmallest = -86.6f;
  const Floats shifted = x * kLog2E + kRounds;
  const Floats n = shifted - kRounds;
  const Floats r = (x - n * kLog2High) - n * kLog2Low;
  Floats p = r * 1.9875691500e-4f + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * (r * r) + r + 1.0f;
  Ints bits, exponent;
  std::memcpy(&bits, &p, sizeof(bits));
  std::memcpy(&exponent, &shifted, sizeof(exponent));
  bits += exponent << 23;
  Floats result;
  std::memcpy(&result, &bits, sizeof(result));
  const Floats zero = {};
  result = x < kSmallest ? zero : result;
  x = x == x ? result : x;
}

}  // namespace thinwire
