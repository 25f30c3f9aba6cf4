#define TORCH_ASSERT_ONLY_METHOD_OPERATORS
#include "ops/norm.h"

#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/zeros_like.h>

#include <algorithm>
#include <cmath>
#include <utility>
#include <vector>

#include "base/clones.h"
#include "base/error.h"
#include "ops/backward.h"
#include "ops/reference.h"

namespace thinwire {
namespace {

constexpr int kLanes = 16;  // partial sums, spelled out: same bits everywhere

// y = w x r with r = 1 / sqrt(mean(x^2) + eps); returns r.
THINWIRE_CLONE_BODY float rms_row_body(float* y, const float* x, const float* w,
                                       std::int64_t d, float eps) {
  float lanes[kLanes] = {};
  std::int64_t j = 0;
  for (; j + kLanes <= d; j += kLanes) {
    for (int i = 0; i < kLanes; ++i) lanes[i] += x[j + i] * x[j + i];
  }
  float sum = 0;
  for (; j < d; ++j) sum += x[j] * x[j];
  for (int i = 0; i < kLanes; ++i) sum += lanes[i];
  const float r = 1.0f / std::sqrt(sum / static_cast<float>(d) + eps);
  for (j = 0; j < d; ++j) y[j] = w[j] * (x[j] * r);
  return r;
}
constexpr Clones<&rms_row_body> rms_row;

// dx = r w g - x r^3 / d * sum(w g x)
THINWIRE_CLONE_BODY void rms_row_backward_body(float* dx, const float* g,
                                               const float* x, const float* w,
                                               std::int64_t d, float r) {
  float lanes[kLanes] = {};
  std::int64_t j = 0;
  for (; j + kLanes <= d; j += kLanes) {
    for (int i = 0; i < kLanes; ++i) {
      lanes[i] += w[j + i] * g[j + i] * x[j + i];
    }
  }
  float sum = 0;
  for (; j < d; ++j) sum += w[j] * g[j] * x[j];
  for (int i = 0; i < kLanes; ++i) sum += lanes[i];
  const float pull = r * r * r * sum / static_cast<float>(d);
  for (j = 0; j < d; ++j) dx[j] = r * (w[j] * g[j]) - pull * x[j];
}
constexpr Clones<&rms_row_backward_body> rms_row_backward;

// dw[j] += g[j] x[j] r, one row.
THINWIRE_CLONE_BODY void rms_weight_row_body(float* dw, const float* g,
                                             const float* x, std::int64_t d,
                                             float r) {
  for (std::int64_t j = 0; j < d; ++j) dw[j] += g[j] * (x[j] * r);
}
constexpr Clones<&rms_weight_row_body> rms_weight_row;

std::int64_t row_grain(std::int64_t d) {
  return std::max<std::int64_t>(1, 32768 / (d + 1));
}

}  // namespace

at::Tensor rms_norm(const at::Tensor& x, const at::Tensor& weight, double eps) {
  if (plain_twin(x)) {
    return x.mul(x.square().mean(-1, true).add(eps).rsqrt()).mul(weight);
  }
  const std::int64_t d = x.size(-1);
  THINWIRE_ASSERT(weight.numel() == d && x.scalar_type() == at::kFloat,
                  "weight of {} for width {}", weight.numel(), d);
  const at::Tensor in = x.detach().contiguous();
  const at::Tensor w = weight.detach().contiguous();
  const std::int64_t rows = d == 0 ? 0 : in.numel() / d;
  at::Tensor out = at::empty_like(in);
  at::Tensor inverse = at::empty({rows}, in.options());
  {
    auto* y = out.mutable_data_ptr<float>();
    auto* r = inverse.mutable_data_ptr<float>();
    const auto* from = in.const_data_ptr<float>();
    const auto* scale = w.const_data_ptr<float>();
    at::parallel_for(0, rows, row_grain(d),
                     [&](std::int64_t begin, std::int64_t end) {
                       for (std::int64_t t = begin; t < end; ++t) {
                         r[t] = rms_row(y + t * d, from + t * d, scale, d,
                                        static_cast<float>(eps));
                       }
                     });
  }
  return with_backward(
      std::move(out), {x, weight},
      [in, w, inverse, rows, d](const at::Tensor& grad,
                                const std::vector<bool>& needed) {
        const at::Tensor g = grad.contiguous();
        const auto* gp = g.const_data_ptr<float>();
        const auto* xp = in.const_data_ptr<float>();
        const auto* wp = w.const_data_ptr<float>();
        const auto* r = inverse.const_data_ptr<float>();
        std::vector<at::Tensor> out(2);
        if (needed[0]) {
          out[0] = at::empty_like(in);
          auto* dx = out[0].mutable_data_ptr<float>();
          at::parallel_for(0, rows, row_grain(d),
                           [&](std::int64_t begin, std::int64_t end) {
                             for (std::int64_t t = begin; t < end; ++t) {
                               rms_row_backward(dx + t * d, gp + t * d,
                                                xp + t * d, wp, d, r[t]);
                             }
                           });
        }
        if (needed[1]) {
          out[1] = at::zeros_like(w);
          auto* dw = out[1].mutable_data_ptr<float>();
          // By columns, so that every thread sums all rows in their order.
          at::parallel_for(0, d, 256, [&](std::int64_t j, std::int64_t end) {
            for (std::int64_t t = 0; t < rows; ++t) {
              rms_weight_row(dw + j, gp + t * d + j, xp + t * d + j, end - j,
                             r[t]);
            }
          });
        }
        return out;
      },
      "rms_norm");
}

}  // namespace thinwire
