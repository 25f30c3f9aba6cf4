#include "ops/norm_rows.h"

#include <cmath>

#include "base/clones.h"

namespace thinwire {
namespace {

constexpr int kLanes = 16;  // partial sums, spelled out: same bits everywhere

__attribute__((always_inline)) inline float total(const float* lanes,
                                                  float sum) {
  for (int i = 0; i < kLanes; ++i) sum += lanes[i];
  return sum;
}

}  // namespace

THINWIRE_CLONE_BODY RowMoments layer_norm_row_body(float* y, const float* x,
                                                   const float* w,
                                                   const float* b,
                                                   std::int64_t d, float eps) {
  float lanes[kLanes] = {}, rest = 0;
  std::int64_t j = 0;
  for (; j + kLanes <= d; j += kLanes) {
    for (int i = 0; i < kLanes; ++i) lanes[i] += x[j + i];
  }
  for (; j < d; ++j) rest += x[j];
  const float mean = total(lanes, rest) / static_cast<float>(d);

  float squares[kLanes] = {};
  rest = 0;
  for (j = 0; j + kLanes <= d; j += kLanes) {
    for (int i = 0; i < kLanes; ++i) {
      const float centred = x[j + i] - mean;
      squares[i] += centred * centred;
    }
  }
  for (; j < d; ++j) rest += (x[j] - mean) * (x[j] - mean);
  const float variance = total(squares, rest) / static_cast<float>(d);
  const float inverse = 1.0f / std::sqrt(variance + eps);
  for (j = 0; j < d; ++j) y[j] = w[j] * ((x[j] - mean) * inverse) + b[j];
  return {mean, inverse};
}

RowMoments layer_norm_row(float* y, const float* x, const float* w,
                          const float* b, std::int64_t d, float eps) {
  constexpr Clones<&layer_norm_row_body> run;
  return run(y, x, w, b, d, eps);
}

// With n = (x - mean) inverse and h = w g:
// dx = inverse (h - mean(h) - n mean(h n)).
THINWIRE_CLONE_BODY void layer_norm_row_backward_body(
    float* dx, const float* g, const float* x, const float* w, std::int64_t d,
    const RowMoments& moments) {
  const float mean = moments.mean, inverse = moments.inverse;
  float sums[kLanes] = {}, products[kLanes] = {}, sum = 0, product = 0;
  std::int64_t j = 0;
  for (; j + kLanes <= d; j += kLanes) {
    for (int i = 0; i < kLanes; ++i) {
      const float h = w[j + i] * g[j + i];
      sums[i] += h;
      products[i] += h * ((x[j + i] - mean) * inverse);
    }
  }
  for (; j < d; ++j) {
    sum += w[j] * g[j];
    product += w[j] * g[j] * ((x[j] - mean) * inverse);
  }
  const float width = static_cast<float>(d);
  const float level = total(sums, sum) / width;
  const float slope = total(products, product) / width;
  for (j = 0; j < d; ++j) {
    const float n = (x[j] - mean) * inverse;
    dx[j] = inverse * (w[j] * g[j] - level - n * slope);
  }
}

void layer_norm_row_backward(float* dx, const float* g, const float* x,
                             const float* w, std::int64_t d,
                             const RowMoments& moments) {
  constexpr Clones<&layer_norm_row_backward_body> run;
  run(dx, g, x, w, d, moments);
}

THINWIRE_CLONE_BODY void layer_norm_row_parameters_body(
    float* dw, float* db, const float* g, const float* x, std::int64_t n,
    const RowMoments& moments) {
  const float mean = moments.mean, inverse = moments.inverse;
  if (dw != nullptr) {
    for (std::int64_t j = 0; j < n; ++j) {
      dw[j] += g[j] * ((x[j] - mean) * inverse);
    }
  }
  if (db != nullptr) {
    for (std::int64_t j = 0; j < n; ++j) db[j] += g[j];
  }
}

void layer_norm_row_parameters(float* dw, float* db, const float* g,
                               const float* x, std::int64_t n,
                               const RowMoments& moments) {
  constexpr Clones<&layer_norm_row_parameters_body> run;
  run(dw, db, g, x, n, moments);
}

}  // namespace thinwire
