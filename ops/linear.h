// A linear layer as one operation whose backward computes what is asked for and
// keeps nothing else: x is held only where a weight trains.
#pragma once

#include <ATen/core/Tensor.h>

namespace thinwire {

// scale * b (a x): a fp32 [r, in], b fp32 [out, r].
struct LowRank {
  at::Tensor a, b;  // undefined: none
  double scale = 1;
};

// x fp32 [T, in]; weight [out, in], fp32 or (frozen) bf16; bias fp32 [out] or
// undefined -> x weight^T + bias + the low-rank product, fp32 [T, out].
// Differentiable once in all of them. Precision as ops/matmul.h; the low-rank
// product is fp32 whatever the weight is.
at::Tensor linear(const at::Tensor& x, const at::Tensor& weight,
                  const at::Tensor& bias = {}, const LowRank& low_rank = {});

}  // namespace thinwire
