// Masked gradients of what is no matrix product: embeddings, biases, norms.
#define TORCH_ASSERT_ONLY_METHOD_OPERATORS
#include <algorithm>
#include <vector>

#include "base/clones.h"
#include "base/error.h"
#include "ops/masked_gradient.h"
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

// sums[i] += dy[index[i]] (x[index[i]] - mean) inverse, or += dy[index[i]].
THINWIRE_CLONE_BODY void add_row_body(float* __restrict sums, const float* dy,
                                      const std::int32_t* index,
                                      std::int64_t k) {
  for (std::int64_t i = 0; i < k; ++i) sums[i] += dy[index[i]];
}
constexpr Clones<&add_row_body> add_row;

THINWIRE_CLONE_BODY void add_norm_row_body(float* __restrict sums,
                                           const float* dy, const float* x,
                                           float mean, float inverse,
                                           const std::int32_t* index,
                                           std::int64_t k) {
  for (std::int64_t i = 0; i < k; ++i) {
    sums[i] += dy[index[i]] * ((x[index[i]] - mean) * inverse);
  }
}
constexpr Clones<&add_norm_row_body> add_norm_row;

// The sums of one vector's rows, then all at once into grad.
template <class AddRow>
void sum_rows(at::Tensor& grad, const at::Tensor& index, std::int64_t rows,
              std::int64_t width, bool accumulate, const AddRow& row_of) {
  const std::int64_t k = index.numel();
  check_grad(grad, k);
  if (k == 0) return;
  const at::Tensor narrow = index.to(at::kInt).contiguous();
  const auto* at = narrow.const_data_ptr<std::int32_t>();
  THINWIRE_ASSERT(at[0] >= 0 && at[k - 1] < width, "index {} to {} of {}",
                  at[0], at[k - 1], width);
  std::vector<float> sums(static_cast<std::size_t>(k), 0.0f);
  for (std::int64_t t = 0; t < rows; ++t) row_of(sums.data(), t, at, k);
  auto* out = grad.mutable_data_ptr<float>();
  for (std::int64_t i = 0; i < k; ++i) {
    out[i] = (accumulate ? out[i] : 0.0f) + sums[static_cast<std::size_t>(i)];
  }
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
    for (std::int64_t i = plan.row_begin[r]; i < plan.row_begin[r + 1]; ++i) {
      out[i] += from[plan.columns[plan.pairs[static_cast<std::size_t>(i)] >>
                                  kPairBits]];
    }
  }
}

void masked_bias_gradient(at::Tensor& grad, const at::Tensor& index,
                          const at::Tensor& dy, bool accumulate) {
  THINWIRE_ASSERT(contiguous_rows(dy), "dy of {} dimensions", dy.dim());
  const auto* from = dy.const_data_ptr<float>();
  sum_rows(
      grad, index, dy.size(0), dy.size(1), accumulate,
      [&](float* sums, std::int64_t t, const std::int32_t* at, std::int64_t k) {
        add_row(sums, from + t * dy.stride(0), at, k);
      });
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
  const auto* g = dy.const_data_ptr<float>();
  const auto* from = x.const_data_ptr<float>();
  const auto* r = inverse.const_data_ptr<float>();
  const float* m = mean.defined() ? mean.const_data_ptr<float>() : nullptr;
  sum_rows(
      grad, index, dy.size(0), dy.size(1), accumulate,
      [&](float* sums, std::int64_t t, const std::int32_t* at, std::int64_t k) {
        add_norm_row(sums, g + t * dy.stride(0), from + t * x.stride(0),
                     m == nullptr ? 0.0f : m[t], r[t], at, k);
      });
}

}  // namespace thinwire
