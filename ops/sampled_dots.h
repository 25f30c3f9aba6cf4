// The kernels of a sampled product: transposed panels of two operands, and the
// dot products of chosen pairs of their rows. Internal to ops/.
#pragma once

#include <cstdint>

#include "base/isa.h"

namespace thinwire {

// Rows of the operands that one pair of panels takes: a chosen column becomes
// so many numbers side by side. The short ones serve the last rows (zeros fill
// them up) and columns by the thousand.
constexpr int kPanelLengths[] = {64, 32, 16};
constexpr int kMostPanelRows = kPanelLengths[0];

// Rows of the second panel; a pair is (first << kPairBits) | second.
constexpr int kPairBits = 6;
constexpr std::int64_t kPairRows = 1 << kPairBits;

struct PanelSource {
  const void* data;    // fp32, or bf16 where `bf16`
  std::int64_t row;    // numbers from row to row
  std::int64_t width;  // columns that exist
  bool bf16;
};

struct CombinedLine {
  float* out;
  std::uint64_t bits;
};

struct SampledKernels {
  // to[i * stride + t] = from[first_row + t][columns[i]], i < n, t < rows <=
  // kMostPanelRows; columns ascend.
  void (*transpose)(float* to, std::int64_t stride, const PanelSource& from,
                    std::int64_t first_row, int rows,
                    const std::int32_t* columns, std::int64_t n);
  // out[i] (+)= sum over t < length of a[first * length + t] *
  // b[second * length + t], for pair i < n; length one of kPanelLengths.
  void (*dots)(float* out, bool add, int length, const std::uint32_t* pairs,
               std::int64_t n, const float* a, const float* b);
  // out[i] (+)= the i-th of line[0 .. 64) whose bit is set.
  void (*compress)(float* out, bool add, const float* line, std::uint64_t bits);
  // line[j] = sum over t < rows of factors[i * stride + t] * x[t * row + j], j
  // < 64, then compressed as lines[i] says, for i < count; moves lines[i].out.
  void (*combine)(CombinedLine* lines, int count, bool add,
                  const float* factors, std::int64_t stride, int rows,
                  const float* x, std::int64_t row);
};

// One per instruction set; where it is not compiled, the next lesser.
const SampledKernels& sampled_portable();
const SampledKernels& sampled_avx2();
const SampledKernels& sampled_avx512();

const SampledKernels& sampled_kernels(Isa isa);

}  // namespace thinwire
