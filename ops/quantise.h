// Matrices kept as 8-bit integers with one scale for what makes one output,
// symmetric: w[o, :] ~ scale[o] * q[o, :], q in [-127, 127]; of a matrix that
// lies [in, out] (ops/linear.h) w[:, o] and q[:, o].
#pragma once

#include <ATen/core/Tensor.h>

#include "ops/linear.h"

namespace thinwire {

struct QuantisedRows {
  at::Tensor q;      // int8, as w lies
  at::Tensor scale;  // fp32 [rows], or of columns
};

// w floating point [rows, columns], finite -> scale[o] = max |w[o, :]| / 127,
// q = w / scale[o] to the nearest, ties to even; a row of zeros has scale 0.
// Throws UsageError where a number is not finite.
QuantisedRows quantise_rows(const at::Tensor& w,
                            WeightAxes axes = WeightAxes::kOutIn);
// scale[o] * q[o, :], fp32.
at::Tensor dequantise_rows(const at::Tensor& q, const at::Tensor& scale,
                           WeightAxes axes = WeightAxes::kOutIn);

}  // namespace thinwire
