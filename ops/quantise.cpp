#define TORCH_ASSERT_ONLY_METHOD_OPERATORS
#include "ops/quantise.h"

#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>

#include <algorithm>
#include <atomic>
#include <cmath>

#include "base/error.h"

namespace thinwire {
namespace {

constexpr float kLargest = 127;

// The row's scale; not finite if a number is not.
float quantise_row(std::int8_t* out, const float* w, std::int64_t n) {
  float largest = 0;
  for (std::int64_t j = 0; j < n; ++j) {
    const float size = std::fabs(w[j]);
    if (!std::isfinite(size)) return size;
    largest = std::max(largest, size);
  }
  const float scale = largest / kLargest;
  for (std::int64_t j = 0; j < n; ++j) {
    const float q = scale > 0 ? std::nearbyint(w[j] / scale) : 0;
    out[j] = static_cast<std::int8_t>(std::clamp(q, -kLargest, kLargest));
  }
  return scale;
}

}  // namespace

QuantisedRows quantise_rows(const at::Tensor& w, WeightAxes axes) {
  if (axes == WeightAxes::kInOut) {
    const auto [q, scale] = quantise_rows(w.t());
    return {q.t().contiguous(), scale};
  }
  THINWIRE_ASSERT(w.dim() == 2 && w.is_floating_point(),
                  "{} dimensions of {} in int8", w.dim(),
                  c10::toString(w.scalar_type()));
  const at::Tensor wide = w.detach().to(at::kFloat).contiguous();
  const std::int64_t rows = w.size(0), columns = w.size(1);
  QuantisedRows out{at::empty({rows, columns}, at::kChar),
                    at::empty({rows}, at::kFloat)};
  auto* q = out.q.mutable_data_ptr<std::int8_t>();
  auto* scale = out.scale.mutable_data_ptr<float>();
  const auto* from = wide.const_data_ptr<float>();
  std::atomic<bool> finite = true;
  at::parallel_for(0, rows, 16, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t i = begin; i < end; ++i) {
      scale[i] = quantise_row(q + i * columns, from + i * columns, columns);
      if (!std::isfinite(scale[i])) finite = false;
    }
  });
  if (!finite) {
    fail<UsageError>("numbers that are not finite cannot be kept as int8");
  }
  return out;
}

at::Tensor dequantise_rows(const at::Tensor& q, const at::Tensor& scale,
                           WeightAxes axes) {
  return q.to(at::kFloat)
      .mul_(scale.unsqueeze(axes == WeightAxes::kOutIn ? 1 : 0));
}

}  // namespace thinwire
