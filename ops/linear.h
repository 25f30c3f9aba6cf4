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

// How a weight lies: kOutIn as torch.nn.Linear's, kInOut as the Conv1D of
// GPT-2 and the linear layers of TensorFlow and JAX.
enum class WeightAxes { kOutIn, kInOut };

// weight.t() where it lies [in, out]: a view [out, in].
at::Tensor out_in(const at::Tensor& weight, WeightAxes axes);

// x fp32 [T, in]; weight [out, in] or, with kInOut, [in, out]: fp32, or
// (frozen) bf16, or (frozen) int8 with `scale` fp32 [out] of what makes one
// output; bias fp32 [out] or undefined -> x weight^T (kInOut: x weight) + bias
// + the low-rank product, fp32 [T, out]. Differentiable once in
// all but an int8 weight. Precision as ops/matmul.h; with an int8 weight
// the gradient of y is scaled before it is rounded. The low-rank product is
// fp32 whatever the weight is.
at::Tensor linear(const at::Tensor& x, const at::Tensor& weight,
                  const at::Tensor& bias = {}, const LowRank& low_rank = {},
                  const at::Tensor& scale = {},
                  WeightAxes axes = WeightAxes::kOutIn);

}  // namespace thinwire
