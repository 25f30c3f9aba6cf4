// Products of activations with weights, outside autograd: tiles of one operand
// are packed as they are used and multiplied by oneDNN's micro-kernel, which
// LibTorch exports; elsewhere, and for a handful of rows, LibTorch's own
// product.
#pragma once

#include <ATen/core/Tensor.h>

namespace thinwire {

// a fp32 [M, K], columns contiguous. w fp32, bf16 or int8, contiguous; with
// bf16 or int8 weights a is rounded to bf16 first. Sums and results are fp32.
// The numbers do not depend on the count of threads.

// A low-rank product on top: a fp32 [M, R], w fp32 [N, R] or [R, N] as the
// first weight lies. Computed in fp32 whatever the first is.
struct Thin {
  at::Tensor a, w;
};

// w [N, K] -> a w^T [M, N], plus bias [N] in every row and thin.a thin.w^T
// where they are given. scale fp32 [N]: of the columns of a w^T alone, before
// anything is added; what rows of int8 are multiplied by.
at::Tensor matmul_nt(const at::Tensor& a, const at::Tensor& w,
                     const at::Tensor& bias = {}, const Thin& thin = {},
                     const at::Tensor& scale = {});
// w [K, N] -> a w [M, N], plus thin.a thin.w; the rest as above.
at::Tensor matmul_nn(const at::Tensor& a, const at::Tensor& w,
                     const at::Tensor& bias = {}, const Thin& thin = {},
                     const at::Tensor& scale = {});
// a [K, M], b [K, N], both fp32 -> a^T b [M, N].
at::Tensor matmul_tn(const at::Tensor& a, const at::Tensor& b);

// Into out, fp32 [M, N] with contiguous columns (rows of a larger matrix will
// do), which must not overlap a or w.
void matmul_nt_into(at::Tensor& out, const at::Tensor& a, const at::Tensor& w,
                    const at::Tensor& bias = {}, const Thin& thin = {},
                    const at::Tensor& scale = {});
void matmul_nn_into(at::Tensor& out, const at::Tensor& a, const at::Tensor& w,
                    const at::Tensor& bias = {}, const Thin& thin = {},
                    const at::Tensor& scale = {});
void matmul_tn_into(at::Tensor& out, const at::Tensor& a, const at::Tensor& b);

}  // namespace thinwire
