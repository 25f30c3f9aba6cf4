#include "ops/philox_lanes.h"

#include <algorithm>

#include "base/isa.h"

#if defined(__x86_64__)
// GCC 12 warns inside its own header (its bug 105593).
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#include <immintrin.h>
#endif

namespace thinwire {
namespace {

constexpr std::uint32_t kMultiplier0 = 0xD2511F53u, kMultiplier1 = 0xCD9E8D57u;
constexpr std::uint32_t kWeyl0 = 0x9E3779B9u, kWeyl1 = 0xBB67AE85u;

void draw_portable(std::int32_t out[kDrawn], const RowDraw& row,
                   std::uint32_t block) {
  for (std::uint32_t i = 0; i < 16; ++i) {
    const PhiloxBlock b =
        philox(row.key, {block + i, row.position, row.sample, row.site});
    std::int32_t* first = out + i / 8 * 32 + i % 8;
    for (std::size_t word = 0; word < 4; ++word) {
      first[8 * word] = static_cast<std::int32_t>(b[word] >> 8);
    }
  }
}

#if defined(__x86_64__)

// One block per 64-bit lane, its words in the lower halves. The multiplication
// reads lower halves only, so what lands in the upper ones does not matter.

__attribute__((target("avx512f"))) void draw_avx512(std::int32_t out[kDrawn],
                                                    const RowDraw& row,
                                                    std::uint32_t block) {
  const __m512i m0 = _mm512_set1_epi64(kMultiplier0);
  const __m512i m1 = _mm512_set1_epi64(kMultiplier1);
  const __m512i lane = _mm512_set_epi64(7, 6, 5, 4, 3, 2, 1, 0);
  __m512i c[2][4];
  for (int g = 0; g < 2; ++g) {
    c[g][0] = _mm512_add_epi64(_mm512_set1_epi64(block + 8 * g), lane);
    c[g][1] = _mm512_set1_epi64(row.position);
    c[g][2] = _mm512_set1_epi64(row.sample);
    c[g][3] = _mm512_set1_epi64(row.site);
  }
  std::uint32_t k0 = row.key.k0, k1 = row.key.k1;
  for (int round = 0; round < 10; ++round, k0 += kWeyl0, k1 += kWeyl1) {
    const __m512i key0 = _mm512_set1_epi64(k0), key1 = _mm512_set1_epi64(k1);
    for (int g = 0; g < 2; ++g) {
      const __m512i p0 = _mm512_mul_epu32(c[g][0], m0);
      const __m512i p1 = _mm512_mul_epu32(c[g][2], m1);
      constexpr int kXor3 = 0x96;
      c[g][0] = _mm512_ternarylogic_epi64(_mm512_srli_epi64(p1, 32), c[g][1],
                                          key0, kXor3);
      c[g][2] = _mm512_ternarylogic_epi64(_mm512_srli_epi64(p0, 32), c[g][3],
                                          key1, kXor3);
      c[g][1] = p1;
      c[g][3] = p0;
    }
  }
  for (int g = 0; g < 2; ++g) {
    for (int word = 0; word < 4; ++word) {
      const __m256i bits =
          _mm256_srli_epi32(_mm512_cvtepi64_epi32(c[g][word]), 8);
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(out + 32 * g + 8 * word),
                          bits);
    }
  }
}

__attribute__((target("avx2"))) void draw_avx2(std::int32_t out[kDrawn],
                                               const RowDraw& row,
                                               std::uint32_t block) {
  const __m256i m0 = _mm256_set1_epi64x(kMultiplier0);
  const __m256i m1 = _mm256_set1_epi64x(kMultiplier1);
  const __m256i lane = _mm256_set_epi64x(3, 2, 1, 0);
  for (int g = 0; g < 2; ++g) {
    __m256i c[2][4];  // blocks 0-3 and 4-7
    for (int half = 0; half < 2; ++half) {
      c[half][0] =
          _mm256_add_epi64(_mm256_set1_epi64x(block + 8 * g + 4 * half), lane);
      c[half][1] = _mm256_set1_epi64x(row.position);
      c[half][2] = _mm256_set1_epi64x(row.sample);
      c[half][3] = _mm256_set1_epi64x(row.site);
    }
    std::uint32_t k0 = row.key.k0, k1 = row.key.k1;
    for (int round = 0; round < 10; ++round, k0 += kWeyl0, k1 += kWeyl1) {
      const __m256i key0 = _mm256_set1_epi64x(k0);
      const __m256i key1 = _mm256_set1_epi64x(k1);
      for (int half = 0; half < 2; ++half) {
        const __m256i p0 = _mm256_mul_epu32(c[half][0], m0);
        const __m256i p1 = _mm256_mul_epu32(c[half][2], m1);
        c[half][0] = _mm256_xor_si256(
            _mm256_xor_si256(_mm256_srli_epi64(p1, 32), c[half][1]), key0);
        c[half][2] = _mm256_xor_si256(
            _mm256_xor_si256(_mm256_srli_epi64(p0, 32), c[half][3]), key1);
        c[half][1] = p1;
        c[half][3] = p0;
      }
    }
    const __m256i lower_halves = _mm256_set_epi32(7, 5, 3, 1, 6, 4, 2, 0);
    for (int word = 0; word < 4; ++word) {
      for (int half = 0; half < 2; ++half) {
        const __m256i packed =
            _mm256_permutevar8x32_epi32(c[half][word], lower_halves);
        const __m128i bits = _mm_srli_epi32(_mm256_castsi256_si128(packed), 8);
        _mm_storeu_si128(
            reinterpret_cast<__m128i*>(out + 32 * g + 8 * word + 4 * half),
            bits);
      }
    }
  }
}

#endif

}  // namespace

std::vector<DrawFunction> draw_functions() {
  std::vector<DrawFunction> out{&draw_portable};
#if defined(__x86_64__)
  if (__builtin_cpu_supports("avx2")) out.push_back(&draw_avx2);
  if (__builtin_cpu_supports("avx512f")) out.push_back(&draw_avx512);
#endif
  return out;
}

DrawFunction draw_function() {
  static const DrawFunction chosen = [] {
    const std::vector<DrawFunction> runs = draw_functions();
    return runs[std::min(static_cast<std::size_t>(isa()), runs.size() - 1)];
  }();
  return chosen;
}

}  // namespace thinwire
