#include "ops/attention_head.h"

#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
// GCC 12 warns inside its own header (its bug 105593).
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#include <immintrin.h>

// Holds to the end of the file, where templates are instantiated. What is
// included below must instantiate no template of the standard library: the
// linker might keep this copy for the whole program.
#pragma GCC target("avx512f,avx2,fma")
#include "ops/attention_head_impl.h"

namespace thinwire {
namespace {

struct Avx512 {
  using V = __m512;
  typedef std::int32_t I __attribute__((vector_size(64)));
  static constexpr int kW = 16, kVectors = 4;
  // 24 sums, the row of b and one number of a fill 32 registers.
  static constexpr int kRows1 = 12, kRows2 = 12, kRows3 = 8, kRows4 = 6;

  static V load(const float* p) { return _mm512_loadu_ps(p); }
  static void store(float* p, V v) { _mm512_storeu_ps(p, v); }
  static V all(float x) { return _mm512_set1_ps(x); }
  static V fma(V a, V b, V c) { return _mm512_fmadd_ps(a, b, c); }
  // The first n < 16 floats at p, zeros behind them.
  static V load_part(const float* p, std::int64_t n) {
    return _mm512_maskz_loadu_ps(static_cast<__mmask16>((1u << n) - 1), p);
  }
};

constexpr HeadKernels kKernels = tile::kernels<Avx512>();

}  // namespace

const HeadKernels* head_kernels_avx512() { return &kKernels; }

}  // namespace thinwire

#else

namespace thinwire {
const HeadKernels* head_kernels_avx512() { return nullptr; }
}  // namespace thinwire

#endif
