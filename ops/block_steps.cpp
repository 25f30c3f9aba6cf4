#define TORCH_ASSERT_ONLY_METHOD_OPERATORS
#include "ops/block_steps.h"

#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/zeros_like.h>

#include <algorithm>
#include <array>
#include <utility>
#include <vector>

#include "base/clones.h"
#include "base/error.h"
#include "ops/backward.h"
#include "ops/dropout_rows.h"
#include "ops/reference.h"
#include "ops/step_tools.h"

namespace thinwire {
namespace {

constexpr std::int64_t kWord = 16;  // bits

// x = max(x, 0) in place (a NaN stays); bits: which numbers are not 0.
THINWIRE_CLONE_BODY void relu_row_body(float* x, std::int64_t n) {
  for (std::int64_t i = 0; i < n; ++i) x[i] = x[i] < 0 ? 0 : x[i];
}
constexpr Clones<&relu_row_body> relu_row;

THINWIRE_CLONE_BODY void mark_row_body(std::int16_t* bits, const float* x,
                                       std::int64_t n) {
  std::int64_t i = 0;
  for (; i + kWord <= n; i += kWord) {
    std::int32_t word = 0;
    for (int k = 0; k < kWord; ++k) word |= (x[i + k] != 0 ? 1 : 0) << k;
    *bits++ = static_cast<std::int16_t>(word);
  }
  if (i == n) return;
  std::int32_t word = 0;
  for (int k = 0; i + k < n; ++k) word |= (x[i + k] != 0 ? 1 : 0) << k;
  *bits = static_cast<std::int16_t>(word);
}
constexpr Clones<&mark_row_body> mark_row;

// out = g scale where the bit is set, else 0.
THINWIRE_CLONE_BODY void pass_marked_body(float* __restrict out,
                                          const float* __restrict g,
                                          const std::int16_t* __restrict bits,
                                          std::int64_t n, float scale) {
  std::int64_t i = 0;
  for (; i + kWord <= n; i += kWord) {
    const std::int32_t word = *bits++;
    for (int k = 0; k < kWord; ++k) {
      const float passed = g[i + k] * scale;
      out[i + k] = (word >> k & 1) != 0 ? passed : 0.0f;
    }
  }
  for (int k = 0; i + k < n; ++k) {
    out[i + k] = (*bits >> k & 1) != 0 ? g[i + k] * scale : 0.0f;
  }
}
constexpr Clones<&pass_marked_body> pass_marked;

}  // namespace

at::Tensor dropout_add(const at::Tensor& x, const at::Tensor& u, double p,
                       const DropoutKey& key, const Layout& layout) {
  if (plain_twin(x)) return x.add(dropout(u, p, key, layout));
  const DropoutRows rows(p, key, layout, u);
  check_pair(x, u);
  const at::Tensor a = x.detach().contiguous(), b = u.detach().contiguous();
  at::Tensor out = fresh_like(a);
  const std::int64_t d = a.size(1);
  auto* to = out.mutable_data_ptr<float>();
  const auto* added = a.const_data_ptr<float>();
  const auto* in = b.const_data_ptr<float>();
  for_rows(a.size(0), d, [&](std::int64_t t) {
    rows.drop_add(to + t * d, added + t * d, in + t * d, t, d);
  });
  return with_backward(
      std::move(out), {x, u},
      [rows](const at::Tensor& grad, const std::vector<bool>& needed) {
        std::vector<at::Tensor> out(2);
        if (needed[0]) out[0] = grad;
        if (needed[1]) out[1] = dropped(grad, rows);
        return out;
      },
      "dropout_add");
}

at::Tensor relu_dropout(const at::Tensor& x, double p, const DropoutKey& key,
                        const Layout& layout) {
  if (plain_twin(x)) return dropout(x.relu(), p, key, layout);
  const DropoutRows rows(p, key, layout, x);
  const at::Tensor in = x.detach().contiguous();
  at::Tensor out = fresh_like(in);
  const std::int64_t d = in.size(1), words = (d + kWord - 1) / kWord;
  at::Tensor bits;
  if (needs_graph(std::array{x})) {
    bits = at::empty({in.size(0), words},
                     in.options().requires_grad(false).dtype(at::kShort));
  }
  auto* to = out.mutable_data_ptr<float>();
  const auto* from = in.const_data_ptr<float>();
  auto* marks =
      bits.defined() ? bits.mutable_data_ptr<std::int16_t>() : nullptr;
  for_rows(in.size(0), d, [&](std::int64_t t) {
    rows.drop(to + t * d, from + t * d, t, d);
    relu_row(to + t * d, d);
    if (marks != nullptr) mark_row(marks + t * words, to + t * d, d);
  });
  return with_backward(
      std::move(out), {x},
      [bits, words, scale = rows.any() ? rows.scale() : 1.0f](
          const at::Tensor& grad, const std::vector<bool>&) {
        const at::Tensor g = grad.contiguous();
        at::Tensor dx = fresh_like(g);
        const std::int64_t d = g.size(1);
        auto* to = dx.mutable_data_ptr<float>();
        const auto* from = g.const_data_ptr<float>();
        const auto* marks = bits.const_data_ptr<std::int16_t>();
        for_rows(g.size(0), d, [&](std::int64_t t) {
          pass_marked(to + t * d, from + t * d, marks + t * words, d, scale);
        });
        return std::vector<at::Tensor>{std::move(dx)};
      },
      "relu_dropout");
}

}  // namespace thinwire
