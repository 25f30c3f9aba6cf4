// The elementwise steps of a transformer block, two at a time: one pass over
// memory, and the least kept for backward. Same numbers as the steps one by
// one.
#pragma once

#include <ATen/core/Tensor.h>

#include "ops/dropout.h"

namespace thinwire {

// All: x, u fp32 [T, d], row t of layout (which may be any where p = 0); p in
// [0, 1), else UsageError. Differentiable once.

// x + dropout(u). Keeps nothing but its counter.
at::Tensor dropout_add(const at::Tensor& x, const at::Tensor& u, double p,
                       const DropoutKey& key, const Layout& layout);

// dropout(relu(x)). Keeps one bit per number.
at::Tensor relu_dropout(const at::Tensor& x, double p, const DropoutKey& key,
                        const Layout& layout);

// layer_norm(x + dropout(u)); weight, bias fp32 [d]. Keeps the sum and two
// numbers per row.
at::Tensor dropout_add_layer_norm(const at::Tensor& x, const at::Tensor& u,
                                  double p, const DropoutKey& key,
                                  const Layout& layout,
                                  const at::Tensor& weight,
                                  const at::Tensor& bias, double eps);

}  // namespace thinwire
