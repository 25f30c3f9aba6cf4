// Where the numbers of a flat fp32 vector go in frozen weights.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <span>

#include "ops/masked_range.h"

namespace thinwire {

// weight: contiguous, fp32 or bf16; index: contiguous, int32 or int64, in
// range. Raw pointers: no version counter moves, no graph is recorded.
MaskedWrite masked_write(const at::Tensor& weight, const at::Tensor& index,
                         std::int64_t begin);

// weight[index] = values, to nearest even where it is bf16, for those of the
// vector's numbers [begin, end) that `writes` (ascending, disjoint) cover.
void write_range(std::span<const MaskedWrite> writes, const float* values,
                 std::int64_t begin, std::int64_t end);
// Asks for the lines that write_range is going to write.
void prefetch_range(std::span<const MaskedWrite> writes, std::int64_t begin,
                    std::int64_t end);

}  // namespace thinwire
