// Attention of one head of one sequence, for several instruction sets.
// Internal to ops/. L queries, n extra keys before the other keys, N keys in
// all, D width of the head; scores [L, N] exist a strip of queries at a time.
#pragma once

#include <cstdint>
#include <vector>

#include "base/isa.h"
#include "ops/philox_lanes.h"
#include "ops/transpose.h"

namespace thinwire {

// Rows of D floats, `row` floats apart.
struct HeadRows {
  const float* data = nullptr;
  std::int64_t row = 0;
};
struct HeadGradient {
  float* data = nullptr;  // null: not wanted
  std::int64_t row = 0;
};

struct HeadDropout {
  DrawFunction draw = nullptr;  // null: none
  RowDraw numbers{};            // but for the position, which is the query's
  const std::int64_t* positions = nullptr;  // [L]
  std::int32_t threshold = 0;               // kept: number >= threshold
  float scale = 1;                          // of what is kept
};

struct HeadInputs {
  std::int64_t queries = 0, extra = 0, keys = 0, width = 0;  // L, n, N - n, D
  HeadRows q, k, v, extra_k, extra_v;
  HeadRows bias;  // [L, N - n], or null
  // Causal: query i sees the first visible[i] keys after the extras.
  const std::int64_t* visible = nullptr;
  float scale = 1;
  HeadDropout dropout;

  std::int64_t columns() const { return extra + keys; }
  std::int64_t seen(std::int64_t query) const {
    return extra + (visible == nullptr ? keys : visible[query]);
  }
};

struct HeadOutputs {
  HeadGradient out;              // [L, D]
  float* log_sum_exp = nullptr;  // [L] of the scores, or null
};

struct HeadGradients {
  HeadRows grad;                        // of the output
  const float* log_sum_exp = nullptr;   // as forward wrote it
  HeadGradient q, k, v;                 // written
  HeadGradient extra_k, extra_v, bias;  // added to
};

struct HeadKernels {
  // Floats of scratch, 64-byte aligned, that a call with these sizes needs.
  std::int64_t (*scratch)(const HeadInputs& sizes, bool backward);
  void (*forward)(const HeadInputs& in, const HeadOutputs& out, float* scratch);
  void (*backward)(const HeadInputs& in, const HeadGradients& out,
                   float* scratch);
};

// Throws InternalError where this build or processor lacks the set.
const HeadKernels& head_kernels(Isa isa);

// Null where the build lacks them.
const HeadKernels* head_kernels_portable();
const HeadKernels* head_kernels_avx2();
const HeadKernels* head_kernels_avx512();

}  // namespace thinwire
