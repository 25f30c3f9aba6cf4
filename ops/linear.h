// A linear layer as one operation whose backward computes what is asked for and
// keeps nothing else: x is held only where the weight trains.
#pragma once

#include <ATen/core/Tensor.h>

namespace thinwire {

// x fp32 [T, in]; weight [out, in], fp32 or (frozen) bf16; bias fp32 [out] or
// undefined -> x weight^T + bias, fp32 [T, out]. Differentiable once in x,
// weight and bias. Precision as ops/matmul.h.
at::Tensor linear(const at::Tensor& x, const at::Tensor& weight,
                  const at::Tensor& bias = {});

}  // namespace thinwire
