#include "ops/attention_head.h"
#include "ops/attention_head_impl.h"

namespace thinwire {
namespace {

struct Portable {
  typedef float V __attribute__((vector_size(16)));
  typedef std::int32_t I __attribute__((vector_size(16)));
  static constexpr int kW = 4, kVectors = 2;
  static constexpr int kRows1 = 12, kRows2 = 6;

  static V load(const float* p) {
    V out;
    __builtin_memcpy(&out, p, sizeof(out));
    return out;
  }
  static void store(float* p, V v) { __builtin_memcpy(p, &v, sizeof(v)); }
  static V all(float x) { return V{x, x, x, x}; }
  static V fma(V a, V b, V c) { return a * b + c; }
  // The first n < 4 floats at p, zeros behind them.
  static V load_part(const float* p, std::int64_t n) {
    V out{};
    for (std::int64_t i = 0; i < n; ++i) out[i] = p[i];
    return out;
  }
};

constexpr HeadKernels kKernels = tile::kernels<Portable>();

}  // namespace

const HeadKernels* head_kernels_portable() { return &kKernels; }

}  // namespace thinwire
