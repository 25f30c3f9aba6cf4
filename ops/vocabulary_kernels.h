// Passes over one tile of logits, stored with the vocabulary downwards and one
// row of the batch per lane, so that maxima and sums need no shuffling.
// Internal to ops/.
#pragma once

#include <cstdint>

namespace thinwire {

// logits [count, lanes], lanes a multiple of 16. Everything per lane: [lanes].

// max = max(max, column).
void raise_max(float* max, const float* logits, std::int64_t count,
               std::int64_t lanes);
// The same, and where the first largest of all stands: best = first + v.
void raise_max_and_best(float* max, std::int32_t* best, const float* logits,
                        std::int64_t count, std::int64_t lanes,
                        std::int32_t first);
// logits = exp(logits - max) in place, sum += column.
void exponentiate(float* logits, float* sum, const float* max,
                  std::int64_t count, std::int64_t lanes);
// logits = exp(logits - max) * scale in place.
void normalise(float* logits, const float* max, const float* scale,
               std::int64_t count, std::int64_t lanes);

// out = the factor exp(from - to), from <= to, or from both -inf.
void decay(float* out, const float* from, const float* to, std::int64_t lanes);

// C [m, n] (+)= A [m, k] B [k, n], fp32, in loops: where no micro-kernel runs.
void multiply_plainly(float* c, const float* a, const float* b, std::int64_t m,
                      std::int64_t n, std::int64_t k, std::int64_t row_a,
                      std::int64_t row_b, std::int64_t row_c, bool add);

// Rows 2 i and 2 i + 1 of from [count, n] side by side, number by number: what
// the micro-kernel multiplies bf16 pairs from. count even.
void interleave_rows(std::uint32_t* out, const std::uint16_t* from,
                     std::int64_t count, std::int64_t n);
// To the nearest bf16, ties to even.
void round_to_bf16(std::uint16_t* out, const float* from, std::int64_t n);

}  // namespace thinwire
