#include "ops/attention_head.h"

#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
#include <immintrin.h>

// As in attention_avx512.cpp.
#pragma GCC target("avx2,fma")
#include "ops/attention_head_impl.h"

namespace thinwire {
namespace {

struct Avx2 {
  using V = __m256;
  typedef std::int32_t I __attribute__((vector_size(32)));
  static constexpr int kW = 8, kVectors = 2;
  // 12 sums, the row of b and one number of a, of 16 registers.
  static constexpr int kRows1 = 12, kRows2 = 6;

  static V load(const float* p) { return _mm256_loadu_ps(p); }
  static void store(float* p, V v) { _mm256_storeu_ps(p, v); }
  static V all(float x) { return _mm256_set1_ps(x); }
  static V fma(V a, V b, V c) { return _mm256_fmadd_ps(a, b, c); }
  // The first n < 8 floats at p, zeros behind them.
  static V load_part(const float* p, std::int64_t n) {
    const __m256i lane = _mm256_set_epi32(7, 6, 5, 4, 3, 2, 1, 0);
    return _mm256_maskload_ps(
        p, _mm256_cmpgt_epi32(_mm256_set1_epi32(static_cast<int>(n)), lane));
  }
};

constexpr HeadKernels kKernels = tile::kernels<Avx2>();

}  // namespace

const HeadKernels* head_kernels_avx2() { return &kKernels; }

}  // namespace thinwire

#else

namespace thinwire {
const HeadKernels* head_kernels_avx2() { return nullptr; }
}  // namespace thinwire

#endif
