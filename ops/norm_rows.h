// Layer normalisation of single rows. Internal to ops/.
#pragma once

#include <cstdint>

namespace thinwire {

struct RowMoments {
  float mean, inverse;  // inverse: 1 / sqrt(variance + eps)
};

// y = w (x - mean) inverse + b; y may be x.
RowMoments layer_norm_row(float* y, const float* x, const float* w,
                          const float* b, std::int64_t d, float eps);
// dx of the above; dx may be g.
void layer_norm_row_backward(float* dx, const float* g, const float* x,
                             const float* w, std::int64_t d,
                             const RowMoments& moments);
// dw += g (x - mean) inverse and db += g, n numbers of one row; null: not
// wanted.
void layer_norm_row_parameters(float* dw, float* db, const float* g,
                               const float* x, std::int64_t n,
                               const RowMoments& moments);

}  // namespace thinwire
