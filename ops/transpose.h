// Transposition of fp32 matrices. Internal to ops/.
#pragma once

#include <cstdint>

// Exported by LibTorch; its header would bring in a build of FBGEMM's.
namespace fbgemm {
template <class T>
void transpose_simd(std::int64_t m, std::int64_t n, const T* from,
                    std::int64_t row_from, T* to, std::int64_t row_to);
extern template void transpose_simd<float>(std::int64_t, std::int64_t,
                                           const float*, std::int64_t, float*,
                                           std::int64_t);
}  // namespace fbgemm

namespace thinwire {

// from [rows, columns] -> to [columns, rows]; strides of rows in numbers.
inline void transpose(std::int64_t rows, std::int64_t columns,
                      const float* from, std::int64_t row_from, float* to,
                      std::int64_t row_to) {
  if (rows == 0) return;
  fbgemm::transpose_simd<float>(rows, columns, from, row_from, to, row_to);
}

}  // namespace thinwire
