// Layer normalisation, alone and behind a residual add: the same numbers.
#define TORCH_ASSERT_ONLY_METHOD_OPERATORS
#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/layer_norm.h>
#include <ATen/ops/zeros_like.h>

#include <algorithm>
#include <array>
#include <utility>
#include <vector>

#include "base/error.h"
#include "ops/backward.h"
#include "ops/block_steps.h"
#include "ops/norm.h"
#include "ops/norm_rows.h"
#include "ops/reference.h"
#include "ops/step_tools.h"

namespace thinwire {
namespace {

struct NormKept {
  at::Tensor sum, weight, moments;  // moments: fp32 [T, 2]
};

RowMoments moments_of(const NormKept& k, std::int64_t t) {
  const auto* m = k.moments.const_data_ptr<float>() + 2 * t;
  return {m[0], m[1]};
}

at::Tensor norm_input_grad(const NormKept& k, const at::Tensor& g) {
  at::Tensor out = fresh_like(g);
  const std::int64_t d = g.size(1);
  auto* dx = out.mutable_data_ptr<float>();
  const auto* from = g.const_data_ptr<float>();
  const auto* x = k.sum.const_data_ptr<float>();
  const auto* w = k.weight.const_data_ptr<float>();
  for_rows(g.size(0), d, [&](std::int64_t t) {
    layer_norm_row_backward(dx + t * d, from + t * d, x + t * d, w, d,
                            moments_of(k, t));
  });
  return out;
}

// By columns, so that every thread sums all rows in their order.
void norm_parameter_grads(const NormKept& k, const at::Tensor& g,
                          at::Tensor& weight, at::Tensor& bias) {
  constexpr std::int64_t kColumns = 256;
  const std::int64_t d = g.size(1);
  auto* dw = weight.defined() ? weight.mutable_data_ptr<float>() : nullptr;
  auto* db = bias.defined() ? bias.mutable_data_ptr<float>() : nullptr;
  const auto* from = g.const_data_ptr<float>();
  const auto* x = k.sum.const_data_ptr<float>();
  at::parallel_for(0, (d + kColumns - 1) / kColumns, 1,
                   [&](std::int64_t begin, std::int64_t end) {
                     const std::int64_t j = begin * kColumns;
                     const std::int64_t n = std::min(d, end * kColumns) - j;
                     for (std::int64_t t = 0; t < g.size(0); ++t) {
                       layer_norm_row_parameters(
                           dw ? dw + j : nullptr, db ? db + j : nullptr,
                           from + t * d + j, x + t * d + j, n,
                           moments_of(k, t));
                     }
                   });
}

std::vector<at::Tensor> parameter_grads(const NormKept& k, const at::Tensor& g,
                                        bool weight, bool bias) {
  std::vector<at::Tensor> out(2);
  if (weight) out[0] = at::zeros_like(k.weight);
  if (bias) out[1] = at::zeros_like(k.weight);
  if (weight || bias) norm_parameter_grads(k, g, out[0], out[1]);
  return out;
}

NormKept keep(at::Tensor sum, const at::Tensor& weight,
              const at::Tensor& bias) {
  const std::int64_t d = sum.size(1);
  THINWIRE_ASSERT(weight.numel() == d && bias.numel() == d,
                  "weight of {}, bias of {} for width {}", weight.numel(),
                  bias.numel(), d);
  at::Tensor moments =
      at::empty({sum.size(0), 2}, sum.options().requires_grad(false));
  return {std::move(sum), weight.detach().contiguous(), std::move(moments)};
}

}  // namespace

at::Tensor layer_norm(const at::Tensor& x, const at::Tensor& weight,
                      const at::Tensor& bias, double eps) {
  if (plain_twin(x)) {
    return at::layer_norm(x, {x.size(-1)}, weight, bias, eps);
  }
  const NormKept kept = keep(x.detach().contiguous(), weight, bias);
  const at::Tensor shift = bias.detach().contiguous();
  at::Tensor out = fresh_like(kept.sum);
  const std::int64_t d = out.size(1);
  auto* to = out.mutable_data_ptr<float>();
  auto* moments = kept.moments.mutable_data_ptr<float>();
  const auto* from = kept.sum.const_data_ptr<float>();
  const auto* w = kept.weight.const_data_ptr<float>();
  const auto* shifts = shift.const_data_ptr<float>();
  for_rows(out.size(0), d, [&](std::int64_t t) {
    const RowMoments m = layer_norm_row(to + t * d, from + t * d, w, shifts, d,
                                        static_cast<float>(eps));
    moments[2 * t] = m.mean;
    moments[2 * t + 1] = m.inverse;
  });
  return with_backward(
      std::move(out), {x, weight, bias},
      [kept](const at::Tensor& grad, const std::vector<bool>& needed) {
        const at::Tensor g = grad.contiguous();
        auto out = parameter_grads(kept, g, needed[1], needed[2]);
        out.insert(out.begin(),
                   needed[0] ? norm_input_grad(kept, g) : at::Tensor());
        return out;
      },
      "layer_norm");
}

at::Tensor dropout_add_layer_norm(const at::Tensor& x, const at::Tensor& u,
                                  double p, const DropoutKey& key,
                                  const Layout& layout,
                                  const at::Tensor& weight,
                                  const at::Tensor& bias, double eps) {
  if (plain_twin(x)) {
    return layer_norm(dropout_add(x, u, p, key, layout), weight, bias, eps);
  }
  const DropoutRows rows(p, key, layout, u);
  check_pair(x, u);
  const at::Tensor a = x.detach().contiguous(), b = u.detach().contiguous();
  const at::Tensor shift = bias.detach().contiguous();
  const bool graph = needs_graph(std::array{x, u, weight, bias});
  at::Tensor out = fresh_like(a);
  const NormKept kept = keep(graph ? fresh_like(a) : out, weight, bias);
  const std::int64_t d = a.size(1);
  auto* to = out.mutable_data_ptr<float>();
  auto* sum = kept.sum.mutable_data_ptr<float>();
  auto* moments = kept.moments.mutable_data_ptr<float>();
  const auto* w = kept.weight.const_data_ptr<float>();
  const auto* added = a.const_data_ptr<float>();
  const auto* in = b.const_data_ptr<float>();
  const auto* shifts = shift.const_data_ptr<float>();
  for_rows(a.size(0), d, [&](std::int64_t t) {
    rows.drop_add(sum + t * d, added + t * d, in + t * d, t, d);
    const RowMoments m = layer_norm_row(to + t * d, sum + t * d, w, shifts, d,
                                        static_cast<float>(eps));
    moments[2 * t] = m.mean;
    moments[2 * t + 1] = m.inverse;
  });
  if (!graph) return out;
  return with_backward(
      std::move(out), {x, u, weight, bias},
      [kept, rows](const at::Tensor& grad, const std::vector<bool>& needed) {
        const at::Tensor g = grad.contiguous();
        auto out = parameter_grads(kept, g, needed[2], needed[3]);
        out.insert(out.begin(), 2, at::Tensor());
        if (needed[0] || needed[1]) {
          const at::Tensor dx = norm_input_grad(kept, g);
          if (needed[0]) out[0] = dx;
          if (needed[1]) out[1] = dropped(dx, rows);
        }
        return out;
      },
      "dropout_add_layer_norm");
}

}  // namespace thinwire
