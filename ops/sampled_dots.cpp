#include "ops/sampled_dots.h"

#include <bit>
#include <cstddef>
#include <cstring>

namespace thinwire {
namespace {

// Four lanes by the compiler's own vectors: whatever the processor has.
struct Simd {
  static constexpr int kWidth = 4;
  using Vec = float __attribute__((vector_size(16)));
  using Mask = int __attribute__((vector_size(16)));
  using Four = Vec;

  static Vec load(const float* p) {
    Vec v;
    std::memcpy(&v, p, sizeof v);
    return v;
  }
  static Vec load(const std::uint16_t* p) {
    Mask v = {p[0], p[1], p[2], p[3]};
    v <<= 16;
    Vec out;
    std::memcpy(&out, &v, sizeof out);
    return out;
  }
  static void store(float* p, Vec v) { std::memcpy(p, &v, sizeof v); }
  static Vec fill(float x) { return Vec{x, x, x, x}; }
  static Vec multiply(Vec a, Vec b) { return a * b; }
  static Vec add_product(Vec sum, Vec a, Vec b) { return sum + a * b; }
  static Four add(Four a, Four b) { return a + b; }
  static Four load_four(const float* p) { return load(p); }
  static void store_four(float* p, Four v) { store(p, v); }

  static void transpose(Vec v[kWidth]) {
    const Vec a = __builtin_shuffle(v[0], v[1], Mask{0, 4, 1, 5});
    const Vec b = __builtin_shuffle(v[0], v[1], Mask{2, 6, 3, 7});
    const Vec c = __builtin_shuffle(v[2], v[3], Mask{0, 4, 1, 5});
    const Vec d = __builtin_shuffle(v[2], v[3], Mask{2, 6, 3, 7});
    v[0] = __builtin_shuffle(a, c, Mask{0, 1, 4, 5});
    v[1] = __builtin_shuffle(a, c, Mask{2, 3, 6, 7});
    v[2] = __builtin_shuffle(b, d, Mask{0, 1, 4, 5});
    v[3] = __builtin_shuffle(b, d, Mask{2, 3, 6, 7});
  }
  static Four sums(Vec a, Vec b, Vec c, Vec d) {
    Vec v[4] = {a, b, c, d};
    transpose(v);
    return (v[0] + v[1]) + (v[2] + v[3]);
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

const SampledKernels& sampled_portable() {
  static constexpr SampledKernels kernels{&transpose, &dots, &compress,
                                          &combine};
  return kernels;
}

const SampledKernels& sampled_kernels(Isa isa) {
  switch (isa) {
    case Isa::kAvx512:
      return sampled_avx512();
    case Isa::kAvx2:
      return sampled_avx2();
    default:
      return sampled_portable();
  }
}

}  // namespace thinwire
