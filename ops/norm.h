// Normalisation over the last dimension, statistics in fp32.
#pragma once

#include <ATen/core/Tensor.h>

namespace thinwire {

// T5: w * x / sqrt(mean(x^2) + eps); no mean subtraction, no bias. x [T, d].
at::Tensor rms_norm(const at::Tensor& x, const at::Tensor& weight, double eps);
// x [T, d], weight and bias [d].
at::Tensor layer_norm(const at::Tensor& x, const at::Tensor& weight,
                      const at::Tensor& bias, double eps);

}  // namespace thinwire
