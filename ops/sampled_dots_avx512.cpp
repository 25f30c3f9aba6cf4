#include <bit>

#include "ops/sampled_dots.h"

#if defined(__AVX512F__)
// GCC 12 warns inside its own header (its bug 105593).
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#include <immintrin.h>

namespace thinwire {
namespace {

struct Simd {
  static constexpr int kWidth = 16;
  using Vec = __m512;
  using Four = __m128;

  static Vec load(const float* p) { return _mm512_loadu_ps(p); }
  static Vec load(const std::uint16_t* p) {
    const __m256i x = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(x), 16));
  }
  static void store(float* p, Vec v) { _mm512_storeu_ps(p, v); }
  static Vec fill(float x) { return _mm512_set1_ps(x); }
  static Vec multiply(Vec a, Vec b) { return _mm512_mul_ps(a, b); }
  static Vec add_product(Vec sum, Vec a, Vec b) {
    return _mm512_fmadd_ps(a, b, sum);
  }
  static Four add(Four a, Four b) { return _mm_add_ps(a, b); }
  static Four load_four(const float* p) { return _mm_loadu_ps(p); }
  static void store_four(float* p, Four v) { _mm_storeu_ps(p, v); }

  static inline __attribute__((always_inline)) void transpose(Vec v[kWidth]) {
    Vec w[16];
    _Pragma("GCC unroll 16") for (int i = 0; i < 16; i += 2) {
      w[i] = _mm512_unpacklo_ps(v[i], v[i + 1]);
      w[i + 1] = _mm512_unpackhi_ps(v[i], v[i + 1]);
    }
    _Pragma("GCC unroll 16") for (int i = 0; i < 16; i += 4) {
      v[i] = _mm512_shuffle_ps(w[i], w[i + 2], 0x44);
      v[i + 1] = _mm512_shuffle_ps(w[i], w[i + 2], 0xee);
      v[i + 2] = _mm512_shuffle_ps(w[i + 1], w[i + 3], 0x44);
      v[i + 3] = _mm512_shuffle_ps(w[i + 1], w[i + 3], 0xee);
    }
    // v[4 q + i]: in lane l of four, column 4 l + i of rows 4 q to 4 q + 3.
    _Pragma("GCC unroll 16") for (int i = 0; i < 4; ++i) {
      w[i] = _mm512_shuffle_f32x4(v[i], v[i + 4], 0x88);
      w[i + 4] = _mm512_shuffle_f32x4(v[i], v[i + 4], 0xdd);
      w[i + 8] = _mm512_shuffle_f32x4(v[i + 8], v[i + 12], 0x88);
      w[i + 12] = _mm512_shuffle_f32x4(v[i + 8], v[i + 12], 0xdd);
    }
    _Pragma("GCC unroll 16") for (int i = 0; i < 4; ++i) {
      v[i] = _mm512_shuffle_f32x4(w[i], w[i + 8], 0x88);
      v[i + 8] = _mm512_shuffle_f32x4(w[i], w[i + 8], 0xdd);
      v[i + 4] = _mm512_shuffle_f32x4(w[i + 4], w[i + 12], 0x88);
      v[i + 12] = _mm512_shuffle_f32x4(w[i + 4], w[i + 12], 0xdd);
    }
  }
  static Four sums(Vec a, Vec b, Vec c, Vec d) {
    const Vec ab =
        _mm512_add_ps(_mm512_unpacklo_ps(a, b), _mm512_unpackhi_ps(a, b));
    const Vec cd =
        _mm512_add_ps(_mm512_unpacklo_ps(c, d), _mm512_unpackhi_ps(c, d));
    const Vec all = _mm512_add_ps(_mm512_shuffle_ps(ab, cd, 0x44),
                                  _mm512_shuffle_ps(ab, cd, 0xee));
    const __m256 half = _mm256_add_ps(_mm512_castps512_ps256(all),
                                      _mm512_extractf32x8_ps(all, 1));
    return _mm_add_ps(_mm256_castps256_ps128(half),
                      _mm256_extractf128_ps(half, 1));
  }

  // Of the first kWidth bits.
  static int compress(float* to, bool add, Vec line, std::uint64_t bits) {
    const auto chosen = static_cast<__mmask16>(bits);
    const int n = std::popcount(static_cast<std::uint16_t>(bits));
    Vec v = _mm512_maskz_compress_ps(chosen, line);
    const auto first = static_cast<__mmask16>((1u << n) - 1);
    if (add) v = _mm512_add_ps(v, _mm512_maskz_loadu_ps(first, to));
    _mm512_mask_storeu_ps(to, first, v);
    return n;
  }
};

}  // namespace
}  // namespace thinwire

#include "ops/sampled_dots_body.inc"

namespace thinwire {
const SampledKernels& sampled_avx512() {
  static constexpr SampledKernels kernels{&transpose, &dots, &compress,
                                          &combine};
  return kernels;
}
}  // namespace thinwire

#else

namespace thinwire {
const SampledKernels& sampled_avx512() { return sampled_portable(); }
}  // namespace thinwire

#endif
