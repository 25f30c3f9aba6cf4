#define TORCH_ASSERT_ONLY_METHOD_OPERATORS
#include "ops/linear.h"

#include <ATen/ops/sum.h>

#include <array>
#include <utility>
#include <vector>

#include "base/error.h"
#include "ops/backward.h"
#include "ops/matmul.h"

namespace thinwire {

at::Tensor linear(const at::Tensor& x, const at::Tensor& weight,
                  const at::Tensor& bias) {
  THINWIRE_ASSERT(x.dim() == 2 && x.scalar_type() == at::kFloat,
                  "a linear layer of {} dimensions of {}", x.dim(),
                  c10::toString(x.scalar_type()));
  const at::Tensor rows = x.detach().contiguous();
  const at::Tensor w = weight.detach().contiguous();
  at::Tensor out =
      matmul_nt(rows, w, bias.defined() ? bias.detach() : at::Tensor());
  const at::Tensor kept = needs_graph(std::array{weight}) ? rows : at::Tensor();
  return with_backward(
      std::move(out), {x, weight, bias},
      [w, kept](const at::Tensor& grad, const std::vector<bool>& needed) {
        const at::Tensor dy = grad.contiguous();
        std::vector<at::Tensor> out(3);
        if (needed[0]) out[0] = matmul_nn(dy, w);
        if (needed[1]) out[1] = matmul_tn(dy, kept).to(w.scalar_type());
        if (needed[2]) out[2] = dy.sum(0);
        return out;
      },
      "linear");
}

}  // namespace thinwire
