// Tiles of int8 matrices as the micro-kernels read them. Internal to ops/.
#pragma once

#include <cstdint>

namespace thinwire {

// The numbers in fp32.
void widen(float* out, const std::int8_t* in, std::int64_t n);
// from [rows, columns] -> to fp32 [columns, rows]; strides of rows in numbers.
void widen_transposed(std::int64_t rows, std::int64_t columns,
                      const std::int8_t* from, std::int64_t row_from, float* to,
                      std::int64_t row_to);
// The same in bf16, which holds them exactly, numbers 2 i and 2 i + 1 of a row
// side by side in 32 bits: to [columns / 2, rows]. columns is even.
void widen_pairs_transposed(std::int64_t rows, std::int64_t columns,
                            const std::int8_t* from, std::int64_t row_from,
                            float* to, std::int64_t row_to);
// Numbers of two rows side by side in bf16.
void interleave_widened(std::uint32_t* out, const std::int8_t* even,
                        const std::int8_t* odd, std::int64_t n);

// x [rows, columns] = x * scale (+ bias), column by column.
void scale_columns(float* x, std::int64_t rows, std::int64_t columns,
                   std::int64_t row_x, const float* scale, const float* bias);

}  // namespace thinwire
