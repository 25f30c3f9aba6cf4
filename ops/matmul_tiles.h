// The tiled product. Internal to ops/.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

namespace thinwire {

// A second, thin product that is added while a tile of the first is at hand.
struct ThinProduct {
  const float* a = nullptr;  // [m, k]
  const float* b =
      nullptr;         // as the first b: [n, k] if transposed, else [k, n]
  std::int64_t k = 0;  // 0: none
  std::int64_t row_a = 0, row_b = 0;
};

struct Product {
  const void* a = nullptr;       // [m, k], of the tiles' type
  const void* b = nullptr;       // the same, or int8
  float* out = nullptr;          // [m, n]
  const float* bias = nullptr;   // [n] or null
  const float* scale = nullptr;  // [n] or null: of a b's columns
  std::int64_t m = 0, n = 0, k = 0;
  std::int64_t row_a = 0, row_b = 0, row_out = 0;  // strides of rows, elements
  bool transposed = false;                         // b is [n, k], else [k, n]
  bool int8 = false;                               // b is
  ThinProduct thin = {};
};

// type: fp32 or bf16, what tiles are multiplied in. bf16: k must be even, and n
// where b is not transposed.
void tiled_product(const Product& p, at::ScalarType type);

}  // namespace thinwire
