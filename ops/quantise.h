// Matrices kept as 8-bit integers with one scale for each row, symmetric:
// w[o, :] ~ scale[o] * q[o, :], q in [-127, 127].
#pragma once

#include <ATen/core/Tensor.h>

namespace thinwire {

struct QuantisedRows {
  at::Tensor q;      // int8 [rows, columns]
  at::Tensor scale;  // fp32 [rows]
};

// w floating point [rows, columns], finite -> scale[o] = max |w[o, :]| / 127,
// q = w / scale[o] to the nearest, ties to even; a row of zeros has scale 0.
// Throws UsageError where a number is not finite.
QuantisedRows quantise_rows(const at::Tensor& w);
// scale[o] * q[o, :], fp32.
at::Tensor dequantise_rows(const at::Tensor& q, const at::Tensor& scale);

}  // namespace thinwire
