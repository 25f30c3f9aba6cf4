#define TORCH_ASSERT_ONLY_METHOD_OPERATORS
#include "ops/linear.h"

#include <ATen/core/grad_mode.h>
#include <ATen/ops/linear.h>
#include <ATen/ops/sum.h>

#include <array>
#include <utility>
#include <vector>

#include "base/error.h"
#include "ops/backward.h"
#include "ops/matmul.h"
#include "ops/reference.h"

namespace thinwire {
namespace {

struct Kept {
  at::Tensor weight, weight_scale;
  at::Tensor x;                  // where weight or low.a trains
  at::Tensor low_a, low_b, low;  // scale folded into b; low = x a^T [T, r]
  double scale = 1;
  WeightAxes axes = WeightAxes::kOutIn;
};

// A thin factor as it lies beside a weight [in, out].
at::Tensor as_lies(const at::Tensor& factor) {
  return factor.defined() ? factor.t().contiguous() : factor;
}

// Gradients of x, weight, bias, low-rank a and b.
std::vector<at::Tensor> linear_backward(const Kept& kept,
                                        const at::Tensor& grad,
                                        const std::vector<bool>& needed) {
  const at::NoGradGuard no_grad;
  const at::Tensor dy = grad.contiguous();
  std::vector<at::Tensor> out(5);
  at::Tensor dlow;
  if (kept.low_a.defined() && (needed[0] || needed[3])) {
    dlow = matmul_nn(dy, kept.low_b);
  }
  if (needed[0]) {
    const at::Tensor& scale = kept.weight_scale;
    const at::Tensor to = scale.defined() ? dy.mul(scale) : dy;
    out[0] = kept.axes == WeightAxes::kOutIn
                 ? matmul_nn(to, kept.weight, {}, {dlow, kept.low_a})
                 : matmul_nt(to, kept.weight, {}, {dlow, as_lies(kept.low_a)});
  }
  if (needed[1]) {
    out[1] = (kept.axes == WeightAxes::kOutIn ? matmul_tn(dy, kept.x)
                                              : matmul_tn(kept.x, dy))
                 .to(kept.weight.scalar_type());
  }
  if (needed[2]) out[2] = dy.sum(0);
  if (needed[3]) out[3] = matmul_tn(dlow, kept.x);
  // The thin factor on the left: its few columns make few rows.
  if (needed[4]) {
    out[4] = matmul_tn(kept.low, dy).t().mul(kept.scale).contiguous();
  }
  return out;
}

// x and the gradient of x w^T rounded to bf16, as matmul.h does.
at::Tensor plain_bf16(const at::Tensor& x, const at::Tensor& weight) {
  const auto rounded = [](const at::Tensor& t) {
    return t.to(at::kBFloat16).to(at::kFloat);
  };
  at::Tensor y = at::linear(x.add(rounded(x.detach()).sub(x.detach())),
                            weight.to(at::kFloat));
  if (y.requires_grad()) y.register_hook(rounded);
  return y;
}

// The same in plain operations.
at::Tensor plain(const at::Tensor& x, const at::Tensor& weight,
                 const at::Tensor& bias, const LowRank& low,
                 const at::Tensor& scale) {
  at::Tensor y;
  if (weight.scalar_type() == at::kFloat) {
    y = at::linear(x, weight, bias);
  } else {
    y = plain_bf16(x, weight);
    if (scale.defined()) y = y.mul(scale);
    if (bias.defined()) y = y.add(bias);
  }
  if (!low.a.defined()) return y;
  return y.add(at::linear(at::linear(x, low.a).mul(low.scale), low.b));
}

}  // namespace

at::Tensor out_in(const at::Tensor& weight, WeightAxes axes) {
  return axes == WeightAxes::kOutIn ? weight : weight.t();
}

at::Tensor linear(const at::Tensor& x, const at::Tensor& weight,
                  const at::Tensor& bias, const LowRank& low_rank,
                  const at::Tensor& scale, WeightAxes axes) {
  THINWIRE_ASSERT(x.dim() == 2 && x.scalar_type() == at::kFloat,
                  "a linear layer of {} dimensions of {}", x.dim(),
                  c10::toString(x.scalar_type()));
  THINWIRE_ASSERT((weight.scalar_type() == at::kChar) == scale.defined(),
                  "scales are of int8 rows, not of {}",
                  c10::toString(weight.scalar_type()));
  if (reference_ops()) {
    return plain(x, out_in(weight, axes), bias, low_rank, scale);
  }
  const at::Tensor rows = x.detach().contiguous();
  Kept kept;
  kept.weight = weight.detach().contiguous();
  kept.weight_scale = scale;
  kept.scale = low_rank.scale;
  if (low_rank.a.defined()) {
    kept.low_a = low_rank.a.detach().contiguous();
    kept.low_b = low_rank.b.detach().mul(low_rank.scale);
    kept.low = matmul_nt(rows, kept.low_a);
  }
  kept.axes = axes;
  const at::Tensor added = bias.defined() ? bias.detach() : bias;
  at::Tensor out =
      axes == WeightAxes::kOutIn
          ? matmul_nt(rows, kept.weight, added, {kept.low, kept.low_b}, scale)
          : matmul_nn(rows, kept.weight, added, {kept.low, as_lies(kept.low_b)},
                      scale);
  if (needs_graph(std::array{weight, low_rank.a})) kept.x = rows;
  return with_backward(
      std::move(out), {x, weight, bias, low_rank.a, low_rank.b},
      [kept = std::move(kept)](const at::Tensor& grad,
                               const std::vector<bool>& needed) {
        return linear_backward(kept, grad, needed);
      },
      "linear");
}

}  // namespace thinwire
