// Products of activations with weights, outside autograd.
#pragma once

#include <ATen/core/Tensor.h>

namespace thinwire {

// a fp32 [M, K], rows contiguous. w fp32 or bf16, contiguous; with bf16 weights
// a is rounded to bf16 first, products are summed and returned in fp32.

// w [N, K] -> a w^T, fp32 [M, N].
at::Tensor matmul_nt(const at::Tensor& a, const at::Tensor& w);
// w [K, N] -> a w, fp32 [M, N].
at::Tensor matmul_nn(const at::Tensor& a, const at::Tensor& w);

// Into out, fp32 [M, N] with contiguous rows (a slice of a larger matrix will
// do), which must not overlap a or w.
void matmul_nt_into(at::Tensor& out, const at::Tensor& a, const at::Tensor& w);
void matmul_nn_into(at::Tensor& out, const at::Tensor& a, const at::Tensor& w);

}  // namespace thinwire
