// What the fused steps share. Internal to ops/.
#pragma once

#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty_like.h>

#include <algorithm>

#include "base/error.h"
#include "ops/dropout_rows.h"

namespace thinwire {

inline void for_rows(std::int64_t rows, std::int64_t d, const auto& run) {
  const std::int64_t grain = std::max<std::int64_t>(1, 16384 / (d + 1));
  at::parallel_for(0, rows, grain, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t t = begin; t < end; ++t) run(t);
  });
}

inline at::Tensor fresh_like(const at::Tensor& x) {
  return at::empty_like(x, x.options().requires_grad(false));
}

inline at::Tensor dropped(const at::Tensor& grad, const DropoutRows& rows) {
  if (!rows.any()) return grad;
  const at::Tensor g = grad.contiguous();
  at::Tensor out = fresh_like(g);
  const std::int64_t d = g.size(1);
  auto* to = out.mutable_data_ptr<float>();
  const auto* from = g.const_data_ptr<float>();
  for_rows(g.size(0), d,
           [&](std::int64_t t) { rows.drop(to + t * d, from + t * d, t, d); });
  return out;
}

inline void check_pair(const at::Tensor& x, const at::Tensor& u) {
  THINWIRE_ASSERT(x.sizes() == u.sizes() && x.scalar_type() == at::kFloat,
                  "[{}, {}] of {} plus [{}, {}]", x.size(0), x.size(1),
                  c10::toString(x.scalar_type()), u.size(0), u.size(1));
}

}  // namespace thinwire
