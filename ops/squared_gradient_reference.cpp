#define TORCH_ASSERT_ONLY_METHOD_OPERATORS
#include <ATen/core/grad_mode.h>
#include <ATen/ops/stack.h>
#include <ATen/ops/zeros.h>

#include <cstddef>

#include "ops/reference.h"
#include "ops/squared_gradient.h"

namespace thinwire {
namespace {

// Adds the gradient of rows [begin, end) of one use.
void add_gradient(at::Tensor& sum, const WeightUse& use, std::int64_t begin,
                  std::int64_t end) {
  const auto rows = [&](const at::Tensor& t) {
    return t.narrow(0, begin, end - begin);
  };
  const at::Tensor dy = rows(use.dy);
  if (use.x.defined()) {
    sum.addmm_(dy.t(), rows(use.x));
    return;
  }
  const at::Tensor at = beside(rows(use.rows), dy);
  sum.index_add_(0, at.clamp_min(0), dy.masked_fill(at.lt(0).unsqueeze(1), 0));
}

}  // namespace

void add_squared_gradients_reference(at::Tensor squares,
                                     std::span<const WeightUse> uses,
                                     std::span<const float> weights) {
  const at::NoGradGuard no_grad;
  for (std::size_t b = 0; b < weights.size(); ++b) {
    at::Tensor sum = at::zeros(squares.sizes(), squares.options());
    for (const WeightUse& use : uses) {
      add_gradient(sum, use, use.offsets[b], use.offsets[b + 1]);
    }
    squares.addcmul_(sum, sum, weights[b]);
  }
}

void add_gradients_reference(at::Tensor sums, std::span<const WeightUse> uses) {
  const at::NoGradGuard no_grad;
  for (const WeightUse& use : uses) {
    add_gradient(sums, use, 0, use.dy.size(0));
  }
}

at::Tensor sequence_sums_reference(const at::Tensor& rows,
                                   std::span<const std::int64_t> offsets) {
  std::vector<at::Tensor> sums;
  for (std::size_t b = 0; b + 1 < offsets.size(); ++b) {
    sums.push_back(
        rows.narrow(0, offsets[b], offsets[b + 1] - offsets[b]).sum(0));
  }
  return at::stack(sums);
}

}  // namespace thinwire
