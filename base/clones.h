// One body compiled for each instruction set, the one of isa() called:
//
//   THINWIRE_CLONE_BODY void scale_body(float* x, std::int64_t n) { … }
//   constexpr Clones<&scale_body> scale;
//   … scale(x, n) …
//
// Contraction is off (cmake/Toolchain.cmake) and sums are written with their
// lanes spelled out, so every clone gives the same bits. What the body calls
// must be inlined into it to be compiled for the set.
#pragma once

#include "base/isa.h"

#define THINWIRE_CLONE_BODY inline __attribute__((always_inline))

namespace thinwire {

template <auto kBody>
class Clones;

template <class R, class... A, R (*kBody)(A...)>
class Clones<kBody> {
 public:
  R operator()(A... arguments) const {
    switch (isa()) {
#if defined(__x86_64__) && defined(__GNUC__)
      case Isa::kAvx512:
        return avx512(arguments...);
      case Isa::kAvx2:
        return avx2(arguments...);
#endif
      default:
        return kBody(arguments...);
    }
  }

 private:
#if defined(__x86_64__) && defined(__GNUC__)
  __attribute__((noinline,
                 target("avx512f,avx512bw,avx512dq,avx512vl"))) static R
  avx512(A... arguments) {
    return kBody(arguments...);
  }
  __attribute__((noinline, target("avx2,fma"))) static R avx2(A... arguments) {
    return kBody(arguments...);
  }
#endif
};

}  // namespace thinwire
