// A frozen weight of which k_t entries train. The weight already holds the
// values at those entries (a bf16 one, rounded: the exact ones are the leaf's);
// `values` is the leaf through which their gradient comes back: a dense
// gradient exists for one tensor at a time, inside this backward, and is
// gathered and freed there.
#pragma once

#include <ATen/core/Tensor.h>

namespace thinwire {

// weight fp32 or bf16, any shape, no grad; values fp32 [k] leaf; index int32 or
// int64 [k], sorted flat positions. Returns weight's numbers, differentiable
// with respect to values. Each use of a tied weight calls it anew; gradients
// sum.
at::Tensor masked_parameter(const at::Tensor& weight, const at::Tensor& values,
                            const at::Tensor& index);

// The same made once for all passes to come, whatever the grad mode now: the
// weight's numbers may change between them.
at::Tensor lasting_masked_parameter(const at::Tensor& weight,
                                    const at::Tensor& values,
                                    const at::Tensor& index);

// weight[index] = values, to nearest even where weight is bf16; in place,
// without touching autograd.
void write_masked(at::Tensor weight, const at::Tensor& values,
                  const at::Tensor& index);

}  // namespace thinwire
