#define TORCH_ASSERT_ONLY_METHOD_OPERATORS
#include "ops/tap.h"

#include <ATen/ops/empty.h>

#include <array>
#include <utility>
#include <vector>

#include "ops/backward.h"

namespace thinwire {

at::Tensor tap_gradient(const at::Tensor& y, const at::Tensor& leaf,
                        std::function<void(const at::Tensor& grad)> see) {
  if (!needs_graph(std::array{leaf})) return y;
  return with_backward(
      y.detach(), {y, leaf},
      [see = std::move(see)](const at::Tensor& grad, const std::vector<bool>&) {
        see(grad);
        return std::vector<at::Tensor>{grad, {}};
      },
      "tap_gradient");
}

at::Tensor tap_gradient_of(
    const at::Tensor& y, const at::Tensor& leaf,
    std::function<void(at::Tensor& out, const at::Tensor& grad)> gradient) {
  if (!needs_graph(std::array{leaf})) return y;
  return with_backward(
      y.detach(), {y, leaf},
      [gradient = std::move(gradient), shape = leaf.sizes().vec()](
          const at::Tensor& grad, const std::vector<bool>&) {
        at::Tensor own = at::empty(shape, grad.options().dtype(at::kFloat));
        gradient(own, grad);
        return std::vector<at::Tensor>{grad, std::move(own)};
      },
      "tap_gradient_of");
}

}  // namespace thinwire
