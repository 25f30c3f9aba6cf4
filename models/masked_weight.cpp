#define TORCH_ASSERT_ONLY_METHOD_OPERATORS
#include "models/masked_weight.h"

#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty_like.h>

#include <utility>

#include "base/error.h"
#include "ops/masked_gradient.h"
#include "ops/tap.h"

namespace thinwire {
namespace {

at::Tensor rows_of(const at::Tensor& x, at::ScalarType type) {
  return x.detach().to(type).contiguous();
}

}  // namespace

MaskedWeight::MaskedWeight(const at::Tensor& weight, at::Tensor values,
                           const at::Tensor& index, std::string_view name)
    : values_(std::move(values)) {
  const bool matrix = weight.dim() == 2;
  THINWIRE_ASSERT(matrix || weight.dim() == 1, "a mask over '{}' of {} axes",
                  name, weight.dim());
  MaskPlan plan = make_mask_plan(index, matrix ? weight.size(0) : 1,
                                 weight.size(matrix ? 1 : 0), name);
  plan.index = plan.index.to(weight.device());
  plan_ = std::make_shared<const MaskPlan>(std::move(plan));
}

at::Tensor MaskedWeight::product(const at::Tensor& y, const at::Tensor& x,
                                 at::ScalarType type, const Layout&,
                                 WeightAxes axes) {
  if (!at::GradMode::is_enabled()) return y;  // x need not be rounded again
  return tap_gradient_of(y, values_,
                         [plan = plan_, x = rows_of(x, type), type, axes](
                             at::Tensor& grad, const at::Tensor& dy) {
                           const at::Tensor rows = rows_of(dy, type);
                           // The gradient of W [in, out] is x^T dy.
                           if (axes == WeightAxes::kInOut) {
                             masked_gradient(grad, *plan, rows, x);
                           } else {
                             masked_gradient(grad, *plan, x, rows);
                           }
                         });
}

at::Tensor MaskedWeight::look_up(const at::Tensor& y, const at::Tensor& rows,
                                 const Layout&, std::int64_t ignored) {
  return tap_gradient_of(
      y, values_,
      [plan = plan_, rows, ignored](at::Tensor& grad, const at::Tensor& dy) {
        const at::Tensor counted =
            ignored < 0 ? dy : dy.masked_fill(rows.eq(ignored).unsqueeze(1), 0);
        masked_embedding_gradient(grad, *plan, rows.contiguous(),
                                  counted.contiguous());
      });
}

at::Tensor MaskedWeight::added(const at::Tensor& y, const Layout&) {
  return tap_gradient_of(
      y, values_, [plan = plan_](at::Tensor& grad, const at::Tensor& dy) {
        masked_bias_gradient(grad, plan->index, dy.contiguous());
      });
}

at::Tensor MaskedWeight::scaled(const at::Tensor& y,
                                std::function<at::Tensor()> normal,
                                const Layout&) {
  return tap_gradient_of(y, values_,
                         [plan = plan_, normal = std::move(normal)](
                             at::Tensor& grad, const at::Tensor& dy) {
                           masked_bias_gradient(grad, plan->index,
                                                normal().mul(dy));
                         });
}

WatchedWeight::Sampled MaskedWeight::sampled(at::ScalarType, const Layout&) {
  return {values_, [plan = plan_](at::Tensor& grad, const LossRows& block) {
            masked_gradient(grad, *plan, block.x.contiguous(),
                            block.dy.contiguous(), {.accumulate = true});
          }};
}

}  // namespace thinwire
