#include "ops/widen_int8.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cstddef>

#include "base/clones.h"
#include "ops/transpose.h"

namespace thinwire {
namespace {

// Rows are widened into a block of this many columns, which is transposed while
// it is in the first-level cache.
constexpr std::int64_t kRows = 64, kColumns = 64;

THINWIRE_CLONE_BODY void widen_body(float* __restrict out,
                                    const std::int8_t* __restrict in,
                                    std::int64_t n) {
  for (std::int64_t j = 0; j < n; ++j) out[j] = static_cast<float>(in[j]);
}
constexpr Clones<&widen_body> widen_row;

THINWIRE_CLONE_BODY void widen_bf16_body(std::uint16_t* __restrict out,
                                         const std::int8_t* __restrict in,
                                         std::int64_t n) {
  for (std::int64_t j = 0; j < n; ++j) {
    out[j] = static_cast<std::uint16_t>(
        std::bit_cast<std::uint32_t>(static_cast<float>(in[j])) >> 16);
  }
}
constexpr Clones<&widen_bf16_body> widen_bf16_row;

THINWIRE_CLONE_BODY void interleave_body(std::uint32_t* __restrict out,
                                         const std::int8_t* __restrict even,
                                         const std::int8_t* __restrict odd,
                                         std::int64_t n) {
  for (std::int64_t j = 0; j < n; ++j) {
    // The low half of an fp32 number this short is zero.
    out[j] = std::bit_cast<std::uint32_t>(static_cast<float>(even[j])) >> 16 |
             std::bit_cast<std::uint32_t>(static_cast<float>(odd[j]));
  }
}
constexpr Clones<&interleave_body> interleave;

THINWIRE_CLONE_BODY void scale_body(float* __restrict x, std::int64_t rows,
                                    std::int64_t columns, std::int64_t row_x,
                                    const float* __restrict scale,
                                    const float* __restrict bias) {
  for (std::int64_t i = 0; i < rows; ++i, x += row_x) {
    for (std::int64_t j = 0; j < columns; ++j) x[j] *= scale[j];
    if (bias == nullptr) continue;
    for (std::int64_t j = 0; j < columns; ++j) x[j] += bias[j];
  }
}
constexpr Clones<&scale_body> scale_all;

// Blocks of [rows, columns] at (row, column) of what is transposed.
template <class F>
void for_each_block(std::int64_t rows, std::int64_t columns, F f) {
  for (std::int64_t i = 0; i < rows; i += kRows) {
    for (std::int64_t j = 0; j < columns; j += kColumns) {
      f(i, j, std::min(kRows, rows - i), std::min(kColumns, columns - j));
    }
  }
}

}  // namespace

void widen(float* out, const std::int8_t* in, std::int64_t n) {
  widen_row(out, in, n);
}

void widen_transposed(std::int64_t rows, std::int64_t columns,
                      const std::int8_t* from, std::int64_t row_from, float* to,
                      std::int64_t row_to) {
  alignas(64) std::array<float, kRows * kColumns> block;
  for_each_block(rows, columns,
                 [&](std::int64_t i, std::int64_t j, std::int64_t block_rows,
                     std::int64_t block_columns) {
                   for (std::int64_t r = 0; r < block_rows; ++r) {
                     widen_row(block.data() + r * kColumns,
                               from + (i + r) * row_from + j, block_columns);
                   }
                   transpose(block_rows, block_columns, block.data(), kColumns,
                             to + j * row_to + i, row_to);
                 });
}

void widen_pairs_transposed(std::int64_t rows, std::int64_t columns,
                            const std::int8_t* from, std::int64_t row_from,
                            float* to, std::int64_t row_to) {
  alignas(64) std::array<std::uint16_t, kRows * kColumns> block;
  for_each_block(rows, columns,
                 [&](std::int64_t i, std::int64_t j, std::int64_t block_rows,
                     std::int64_t block_columns) {
                   for (std::int64_t r = 0; r < block_rows; ++r) {
                     widen_bf16_row(block.data() + r * kColumns,
                                    from + (i + r) * row_from + j,
                                    block_columns);
                   }
                   transpose(block_rows, block_columns / 2,
                             reinterpret_cast<const float*>(block.data()),
                             kColumns / 2, to + j / 2 * row_to + i, row_to);
                 });
}

void interleave_widened(std::uint32_t* out, const std::int8_t* even,
                        const std::int8_t* odd, std::int64_t n) {
  interleave(out, even, odd, n);
}

void scale_columns(float* x, std::int64_t rows, std::int64_t columns,
                   std::int64_t row_x, const float* scale, const float* bias) {
  scale_all(x, rows, columns, row_x, scale, bias);
}

}  // namespace thinwire
