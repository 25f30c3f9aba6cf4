// Masked gradients of what is no matrix product: embeddings, biases, norms.
#define TORCH_ASSERT_ONLY_METHOD_OPERATORS
#include <ATen/core/grad_mode.h>
#include <ATen/ops/embedding_dense_backward.h>

#include <algorithm>
#include <vector>

#include "base/clones.h"
#include "base/error.h"
#include "ops/masked_gradient.h"
#include "ops/reference.h"
#include "ops/sampled_dots.h"

namespace thinwire {
namespace {

bool contiguous_rows(const at::Tensor& t) {
  return t.dim() == 2 && t.scalar_type() == at::kFloat &&
         (t.size(1) <= 1 || t.stride(1) == 1);
}

void check_grad(const at::Tensor& grad, std::int64_t k) {
  THINWIRE_ASSERT(grad.scalar_type() == at::kFloat && grad.is_contiguous() &&
                      grad.numel() == k,
                  "{} numbers for {} positions", grad.numel(), k);
}

// Rows of dy, and of a norm's x; x null: a bias.
struct RowSums {
  const float *dy, *x, *mean, *inverse;
  std::int64_t rows, dy_row, x_row;
};

// sums[i] = over rows of dy[j] (x[j] - mean) inverse, or of dy[j]; j =
// index[i], or i.
template <class Index>
inline __attribute__((always_inline)) void sum_rows(float* __restrict sums,
                                                    const RowSums& r,
                                                    std::int64_t k,
                                                    const Index& index) {
  for (std::int64_t t = 0; t < r.rows; ++t) {
    const float* dy = r.dy + t * r.dy_row;
    if (r.x == nullptr) {
      for (std::int64_t i = 0; i < k; ++i) sums[i] += dy[index(i)];
      continue;
    }
    const float* x = r.x + t * r.x_row;
    const float mean = r.mean == nullptr ? 0.0f : r.mean[t];
    const float inverse = r.inverse[t];
    for (std::int64_t i = 0; i < k; ++i) {
      sums[i] += dy[index(i)] * ((x[index(i)] - mean) * inverse);
    }
  }
}

THINWIRE_CLONE_BODY void sum_all_body(float* __restrict sums, const RowSums& r,
                                      std::int64_t d) {
  sum_rows(sums, r, d, [](std::int64_t i) { return i; });
}
constexpr Clones<&sum_all_body> sum_all;

THINWIRE_CLONE_BODY void sum_chosen_body(float* __restrict sums,
                                         const RowSums& r, std::int64_t k,
                                         const std::int32_t* index) {
  sum_rows(sums, r, k, [index](std::int64_t i) { return index[i]; });
}
constexpr Clones<&sum_chosen_body> sum_chosen;

THINWIRE_CLONE_BODY void add_body(float* __restrict to, const float* from,
                                  std::int64_t n) {
  for (std::int64_t i = 0; i < n; ++i) to[i] += from[i];
}
constexpr Clones<&add_body> add;

// One number in so many: below, whole rows are the quicker read.
constexpr std::int64_t kSparse = 8;

void masked_sums(at::Tensor& grad, const at::Tensor& index, const RowSums& r,
                 std::int64_t d, bool accumulate) {
  const std::int64_t k = index.numel();
  check_grad(grad, k);
  if (k == 0) return;
  const at::Tensor narrow = index.to(at::kInt).contiguous();
  const auto* at = narrow.const_data_ptr<std::int32_t>();
  THINWIRE_ASSERT(at[0] >= 0 && at[k - 1] < d, "index {} to {} of {}", at[0],
                  at[k - 1], d);
  const bool all = k * kSparse >= d;
  std::vector<float> sums(static_cast<std::size_t>(all ? d : k), 0.0f);
  if (all) {
    sum_all(sums.data(), r, d);
  } else {
    sum_chosen(sums.data(), r, k, at);
  }
  auto* out = grad.mutable_data_ptr<float>();
  for (std::int64_t i = 0; i < k; ++i) {
    const float sum = sums[static_cast<std::size_t>(all ? at[i] : i)];
    out[i] = (accumulate ? out[i] : 0.0f) + sum;
  }
}

// The twins: grad (+)= dense[index].
void gather_into(at::Tensor& grad, const at::Tensor& dense,
                 const at::Tensor& index, bool accumulate) {
  const at::NoGradGuard no_grad;
  const at::Tensor sums = dense.index_select(0, beside(index, dense));
  accumulate ? grad.add_(sums) : grad.copy_(sums);
}

}  // namespace

void masked_embedding_gradient(at::Tensor& grad, const MaskPlan& plan,
                               const at::Tensor& tokens, const at::Tensor& dy,
                               bool accumulate) {
  THINWIRE_ASSERT(
      contiguous_rows(dy) && dy.size(1) == plan.in && tokens.is_contiguous() &&
          tokens.scalar_type() == at::kLong && tokens.numel() == dy.size(0),
      "{} tokens, dy of {} x {}, a mask of {} columns", tokens.numel(),
      dy.size(0), dy.size(1), plan.in);
  check_grad(grad, plan.size());
  if (plan.pairs.empty()) return;
  if (plain_twin(dy)) {
    // Sorted by token inside, so that the order of sums does not change.
    return gather_into(grad,
                       at::embedding_dense_backward(dy, beside(tokens, dy),
                                                    plan.out, -1, false)
                           .flatten(),
                       plan.index, accumulate);
  }
  auto* out = grad.mutable_data_ptr<float>();
  if (!accumulate) std::fill(out, out + plan.size(), 0.0f);
  const auto* token = tokens.const_data_ptr<std::int64_t>();
  const auto* from = dy.const_data_ptr<float>();
  for (std::int64_t t = 0; t < tokens.numel(); ++t, from += dy.stride(0)) {
    if (token[t] < 0 || token[t] >= plan.out) {
      fail<UsageError>("token {} is {}, out of range [0, {})", t, token[t],
                       plan.out);
    }
    const auto row = std::ranges::lower_bound(plan.rows, token[t]);
    if (row == plan.rows.end() || *row != token[t]) continue;
    const auto r = static_cast<std::size_t>(row - plan.rows.begin());
    const std::int64_t begin = plan.row_begin[r], end = plan.row_begin[r + 1];
    if (end - begin == plan.in) {
      add(out + begin, from, plan.in);
      continue;
    }
    for (std::int64_t i = begin; i < end; ++i) {
      out[i] += from[plan.columns[plan.pairs[static_cast<std::size_t>(i)] >>
                                  kPairBits]];
    }
  }
}

void masked_bias_gradient(at::Tensor& grad, const at::Tensor& index,
                          const at::Tensor& dy, bool accumulate) {
  THINWIRE_ASSERT(contiguous_rows(dy), "dy of {} dimensions", dy.dim());
  if (plain_twin(dy)) return gather_into(grad, dy.sum(0), index, accumulate);
  masked_sums(grad, index,
              {.dy = dy.const_data_ptr<float>(),
               .x = nullptr,
               .mean = nullptr,
               .inverse = nullptr,
               .rows = dy.size(0),
               .dy_row = dy.stride(0),
               .x_row = 0},
              dy.size(1), accumulate);
}

void masked_norm_gradient(at::Tensor& grad, const at::Tensor& index,
                          const at::Tensor& dy, const at::Tensor& x,
                          const at::Tensor& mean, const at::Tensor& inverse,
                          bool accumulate) {
  THINWIRE_ASSERT(contiguous_rows(dy) && contiguous_rows(x) &&
                      dy.sizes() == x.sizes() &&
                      inverse.numel() == dy.size(0) &&
                      (!mean.defined() || mean.numel() == dy.size(0)),
                  "dy of {} rows, x of {}, {} scales", dy.size(0), x.size(0),
                  inverse.numel());
  if (plain_twin(dy)) {
    const at::Tensor centred = mean.defined() ? x.sub(mean.view({-1, 1})) : x;
    return gather_into(grad, centred.mul(inverse.view({-1, 1})).mul(dy).sum(0),
                       index, accumulate);
  }
  masked_sums(grad, index,
              {.dy = dy.const_data_ptr<float>(),
               .x = x.const_data_ptr<float>(),
               .mean = mean.defined() ? mean.const_data_ptr<float>() : nullptr,
               .inverse = inverse.const_data_ptr<float>(),
               .rows = dy.size(0),
               .dy_row = dy.stride(0),
               .x_row = x.stride(0)},
              dy.size(1), accumulate);
}

}  // namespace thinwire
