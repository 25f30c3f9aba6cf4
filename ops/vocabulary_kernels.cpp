#include "ops/vocabulary_kernels.h"

#include <algorithm>
#include <cstring>

#include "base/clones.h"
#include "ops/vector_exp.h"

namespace thinwire {
namespace {

constexpr std::int64_t kGroup = 4 * kVectorLanes;  // vectors in flight

template <int N>
THINWIRE_INLINE void raise_group(float* max, const float* logits,
                                 std::int64_t count, std::int64_t lanes) {
  Floats top[N], x;
  for (int i = 0; i < N; ++i) load_lanes(top[i], max + i * kVectorLanes);
  for (std::int64_t v = 0; v < count; ++v, logits += lanes) {
    for (int i = 0; i < N; ++i) {
      load_lanes(x, logits + i * kVectorLanes);
      max_lanes(top[i], x);
    }
  }
  for (int i = 0; i < N; ++i) store_lanes(max + i * kVectorLanes, top[i]);
}

// Sums go through kParts partial sums each: shorter chains, less rounding.
template <int N>
THINWIRE_INLINE void exponentiate_group(float* logits, float* sum,
                                        const float* max, std::int64_t count,
                                        std::int64_t lanes) {
  constexpr std::int64_t kPart = 32;
  Floats top[N], total[N], x;
  for (int i = 0; i < N; ++i) {
    load_lanes(top[i], max + i * kVectorLanes);
    load_lanes(total[i], sum + i * kVectorLanes);
  }
  for (std::int64_t begin = 0; begin < count; begin += kPart) {
    const std::int64_t end = std::min(count, begin + kPart);
    Floats part[N] = {};
    for (std::int64_t v = begin; v < end; ++v) {
      float* row = logits + v * lanes;
      for (int i = 0; i < N; ++i) {
        load_lanes(x, row + i * kVectorLanes);
        x = x - top[i];
        exp_lanes(x);
        part[i] += x;
        store_lanes(row + i * kVectorLanes, x);
      }
    }
    for (int i = 0; i < N; ++i) total[i] += part[i];
  }
  for (int i = 0; i < N; ++i) store_lanes(sum + i * kVectorLanes, total[i]);
}

}  // namespace

THINWIRE_CLONE_BODY void raise_max_body(float* max, const float* logits,
                                        std::int64_t count,
                                        std::int64_t lanes) {
  std::int64_t j = 0;
  for (; j + kGroup <= lanes; j += kGroup) {
    raise_group<4>(max + j, logits + j, count, lanes);
  }
  for (; j < lanes; j += kVectorLanes) {
    raise_group<1>(max + j, logits + j, count, lanes);
  }
}

void raise_max(float* max, const float* logits, std::int64_t count,
               std::int64_t lanes) {
  constexpr Clones<&raise_max_body> run;
  run(max, logits, count, lanes);
}

THINWIRE_CLONE_BODY void raise_max_and_best_body(float* max, std::int32_t* best,
                                                 const float* logits,
                                                 std::int64_t count,
                                                 std::int64_t lanes,
                                                 std::int32_t first) {
  for (std::int64_t j = 0; j < lanes; j += kVectorLanes) {
    Floats top, x;
    Ints place;
    load_lanes(top, max + j);
    std::memcpy(&place, best + j, sizeof(place));
    for (std::int64_t v = 0; v < count; ++v) {
      load_lanes(x, logits + v * lanes + j);
      const Ints here = Ints{} + (first + static_cast<std::int32_t>(v));
      place = x > top ? here : place;
      max_lanes(top, x);
    }
    store_lanes(max + j, top);
    std::memcpy(best + j, &place, sizeof(place));
  }
}

void raise_max_and_best(float* max, std::int32_t* best, const float* logits,
                        std::int64_t count, std::int64_t lanes,
                        std::int32_t first) {
  constexpr Clones<&raise_max_and_best_body> run;
  run(max, best, logits, count, lanes, first);
}

THINWIRE_CLONE_BODY void exponentiate_body(float* logits, float* sum,
                                           const float* max, std::int64_t count,
                                           std::int64_t lanes) {
  std::int64_t j = 0;
  for (; j + kGroup <= lanes; j += kGroup) {
    exponentiate_group<4>(logits + j, sum + j, max + j, count, lanes);
  }
  for (; j < lanes; j += kVectorLanes) {
    exponentiate_group<1>(logits + j, sum + j, max + j, count, lanes);
  }
}

void exponentiate(float* logits, float* sum, const float* max,
                  std::int64_t count, std::int64_t lanes) {
  constexpr Clones<&exponentiate_body> run;
  run(logits, sum, max, count, lanes);
}

THINWIRE_CLONE_BODY void normalise_body(float* logits, const float* max,
                                        const float* scale, std::int64_t count,
                                        std::int64_t lanes) {
  for (std::int64_t v = 0; v < count; ++v, logits += lanes) {
    for (std::int64_t j = 0; j < lanes; j += kVectorLanes) {
      Floats x, top, factor;
      load_lanes(x, logits + j);
      load_lanes(top, max + j);
      load_lanes(factor, scale + j);
      x = x - top;
      exp_lanes(x);
      store_lanes(logits + j, x * factor);
    }
  }
}

void normalise(float* logits, const float* max, const float* scale,
               std::int64_t count, std::int64_t lanes) {
  constexpr Clones<&normalise_body> run;
  run(logits, max, scale, count, lanes);
}

THINWIRE_CLONE_BODY void decay_body(float* out, const float* from,
                                    const float* to, std::int64_t lanes) {
  for (std::int64_t j = 0; j < lanes; j += kVectorLanes) {
    Floats x, top;
    load_lanes(x, from + j);
    load_lanes(top, to + j);
    const Floats zero = {};
    x = x == top ? zero : x - top;
    exp_lanes(x);
    store_lanes(out + j, x);
  }
}

void decay(float* out, const float* from, const float* to, std::int64_t lanes) {
  constexpr Clones<&decay_body> run;
  run(out, from, to, lanes);
}

THINWIRE_CLONE_BODY void multiply_plainly_body(float* c, const float* a,
                                               const float* b, std::int64_t m,
                                               std::int64_t n, std::int64_t k,
                                               std::int64_t row_a,
                                               std::int64_t row_b,
                                               std::int64_t row_c, bool add) {
  for (std::int64_t i = 0; i < m; ++i) {
    float* __restrict out = c + i * row_c;
    if (!add) std::fill_n(out, n, 0.0f);
    for (std::int64_t p = 0; p < k; ++p) {
      const float factor = a[i * row_a + p];
      const float* __restrict from = b + p * row_b;
      for (std::int64_t j = 0; j < n; ++j) out[j] += factor * from[j];
    }
  }
}

void multiply_plainly(float* c, const float* a, const float* b, std::int64_t m,
                      std::int64_t n, std::int64_t k, std::int64_t row_a,
                      std::int64_t row_b, std::int64_t row_c, bool add) {
  constexpr Clones<&multiply_plainly_body> run;
  run(c, a, b, m, n, k, row_a, row_b, row_c, add);
}

THINWIRE_CLONE_BODY void interleave_rows_body(
    std::uint32_t* __restrict out, const std::uint16_t* __restrict from,
    std::int64_t count, std::int64_t n) {
  for (std::int64_t i = 0; i < count; i += 2, out += n, from += 2 * n) {
    for (std::int64_t j = 0; j < n; ++j) {
      out[j] = static_cast<std::uint32_t>(from[j]) |
               static_cast<std::uint32_t>(from[n + j]) << 16;
    }
  }
}

void interleave_rows(std::uint32_t* out, const std::uint16_t* from,
                     std::int64_t count, std::int64_t n) {
  constexpr Clones<&interleave_rows_body> run;
  run(out, from, count, n);
}

THINWIRE_CLONE_BODY void round_to_bf16_body(std::uint16_t* __restrict out,
                                            const float* __restrict from,
                                            std::int64_t n) {
  for (std::int64_t i = 0; i < n; ++i) {
    std::uint32_t bits;
    std::memcpy(&bits, from + i, sizeof(bits));
    const std::uint32_t up = 0x7FFFu + (bits >> 16 & 1u);
    // A NaN keeps its upper half, made quiet.
    const bool nan = (bits & 0x7FFFFFFFu) > 0x7F800000u;
    out[i] =
        static_cast<std::uint16_t>((nan ? bits | 0x400000u : bits + up) >> 16);
  }
}

void round_to_bf16(std::uint16_t* out, const float* from, std::int64_t n) {
  constexpr Clones<&round_to_bf16_body> run;
  run(out, from, n);
}

}  // namespace thinwire
