#include <bit>

#include "ops/sampled_dots.h"

#if defined(__AVX2__) && defined(__FMA__)
#include <immintrin.h>

namespace thinwire {
namespace {

struct Simd {
  static constexpr int kWidth = 8;
  using Vec = __m256;
  using Four = __m128;

  static Vec load(const float* p) { return _mm256_loadu_ps(p); }
  static Vec load(const std::uint16_t* p) {
    const __m128i x = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(x), 16));
  }
  static void store(float* p, Vec v) { _mm256_storeu_ps(p, v); }
  static Vec fill(float x) { return _mm256_set1_ps(x); }
  static Vec multiply(Vec a, Vec b) { return _mm256_mul_ps(a, b); }
  static Vec add_product(Vec sum, Vec a, Vec b) {
    return _mm256_fmadd_ps(a, b, sum);
  }
  static Four add(Four a, Four b) { return _mm_add_ps(a, b); }
  static Four load_four(const float* p) { return _mm_loadu_ps(p); }
  static void store_four(float* p, Four v) { _mm_storeu_ps(p, v); }

  static inline __attribute__((always_inline)) void transpose(Vec v[kWidth]) {
    Vec pairs[8], quads[8];
    _Pragma("GCC unroll 16") for (int i = 0; i < 8; i += 2) {
      pairs[i] = _mm256_unpacklo_ps(v[i], v[i + 1]);
      pairs[i + 1] = _mm256_unpackhi_ps(v[i], v[i + 1]);
    }
    _Pragma("GCC unroll 16") for (int i = 0; i < 8; i += 4) {
      quads[i] = _mm256_shuffle_ps(pairs[i], pairs[i + 2], 0x44);
      quads[i + 1] = _mm256_shuffle_ps(pairs[i], pairs[i + 2], 0xee);
      quads[i + 2] = _mm256_shuffle_ps(pairs[i + 1], pairs[i + 3], 0x44);
      quads[i + 3] = _mm256_shuffle_ps(pairs[i + 1], pairs[i + 3], 0xee);
    }
    _Pragma("GCC unroll 16") for (int i = 0; i < 4; ++i) {
      v[i] = _mm256_permute2f128_ps(quads[i], quads[i + 4], 0x20);
      v[i + 4] = _mm256_permute2f128_ps(quads[i], quads[i + 4], 0x31);
    }
  }
  static Four sums(Vec a, Vec b, Vec c, Vec d) {
    const Vec all = _mm256_hadd_ps(_mm256_hadd_ps(a, b), _mm256_hadd_ps(c, d));
    return _mm_add_ps(_mm256_castps256_ps128(all),
                      _mm256_extractf128_ps(all, 1));
  }

  // Of the first kWidth bits.
  static int compress(float* to, bool add, Vec line, std::uint64_t bits) {
    float numbers[kWidth];
    store(numbers, line);
    int n = 0;
    for (bits &= (1 << kWidth) - 1; bits != 0; bits &= bits - 1, ++n) {
      to[n] = (add ? to[n] : 0.0f) + numbers[std::countr_zero(bits)];
    }
    return n;
  }
};

}  // namespace
}  // namespace thinwire

#include "ops/sampled_dots_body.inc"

namespace thinwire {
const SampledKernels& sampled_avx2() {
  static constexpr SampledKernels kernels{&transpose, &dots, &compress,
                                          &combine};
  return kernels;
}
}  // namespace thinwire

#else

namespace thinwire {
const SampledKernels& sampled_avx2() { return sampled_portable(); }
}  // namespace thinwire

#endif
