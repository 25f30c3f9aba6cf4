// Masked gradients of what is no matrix product: embeddings, biases, norms.
#define TORCH_ASSERT_ONLY_METHOD_OPERATORS
#include <ATen/core/grad_mode.h>
#include <ATen/ops/embedding_dense_backward.h>

#include <algorithm>
#include <numeric>
#include <span>
#include <vector>

#include "base/clones.h"
#include "base/error.h"
#include "base/isa.h"
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

// Where in plan.rows a token's row is, or plan.rows.size().
class TouchedRow {
 public:
  TouchedRow(const MaskPlan& plan, const at::Tensor& tokens)
      : plan_(plan),
        token_(tokens.const_data_ptr<std::int64_t>()),
        every_(std::ssize(plan.rows) == plan.out) {}

  std::size_t operator()(std::int64_t t) const {
    const std::int64_t row = token_[t];
    if (row < 0 || row >= plan_.out) {
      fail<UsageError>("token {} is {}, out of range [0, {})", t, row,
                       plan_.out);
    }
    if (every_) return static_cast<std::size_t>(row);
    const auto at = std::ranges::lower_bound(plan_.rows, row);
    return at == plan_.rows.end() || *at != row
               ? plan_.rows.size()
               : static_cast<std::size_t>(at - plan_.rows.begin());
  }

 private:
  const MaskPlan& plan_;
  const std::int64_t* token_;
  bool every_;
};

// Few positions a row: each row of dy adds to those of its own.
void add_rows(float* out, const MaskPlan& plan, const at::Tensor& tokens,
              const at::Tensor& dy) {
  const TouchedRow touched(plan, tokens);
  const auto* from = dy.const_data_ptr<float>();
  for (std::int64_t t = 0; t < tokens.numel(); ++t, from += dy.stride(0)) {
    const std::size_t r = touched(t);
    if (r == plan.rows.size()) continue;
    const std::int64_t end = plan.row_begin[r + 1];
    for (std::int64_t i = plan.row_begin[r]; i < end; ++i) {
      out[i] += from[plan.columns[plan.pairs[static_cast<std::size_t>(i)] >>
                                  kPairBits]];
    }
  }
}

// The rows of dy in the order of the touched rows of the weight that they are
// for, and in their own order for each: those of plan.rows[r] are
// order[begin[r]] to order[begin[r + 1]].
struct RowsOfDy {
  std::vector<std::int32_t> begin, order;
};

RowsOfDy rows_of_dy(const MaskPlan& plan, const at::Tensor& tokens) {
  const TouchedRow touched(plan, tokens);
  const std::int64_t n = tokens.numel();
  std::vector<std::size_t> place(static_cast<std::size_t>(n));
  std::vector<std::int32_t> end(plan.rows.size() + 1);
  for (std::int64_t t = 0; t < n; ++t) {
    const std::size_t r = touched(t);
    place[static_cast<std::size_t>(t)] = r;
    ++end[r];
  }
  std::inclusive_scan(end.begin(), end.end(), end.begin());
  RowsOfDy found{.begin = std::move(end),
                 .order = std::vector<std::int32_t>(place.size())};
  for (std::int64_t t = n; t-- > 0;) {
    const std::int32_t at = --found.begin[place[static_cast<std::size_t>(t)]];
    found.order[static_cast<std::size_t>(at)] = static_cast<std::int32_t>(t);
  }
  return found;
}

// out[i] = what touched row r has at its i-th position; `line` is filled up to
// whole stretches.
void choose(float* out, const MaskPlan& plan, std::size_t r, const float* line,
            const SampledKernels& kernels) {
  const std::size_t rows = plan.rows.size();
  for (std::size_t s = r; s < plan.stretches.size(); s += rows, line += 64) {
    const MaskPlan::Stretch& stretch = plan.stretches[s];
    kernels.compress(out + stretch.before, false, line, stretch.bits);
  }
  if (!plan.stretches.empty()) return;
  const std::int64_t begin = plan.row_begin[r], end = plan.row_begin[r + 1];
  for (std::int64_t i = begin; i < end; ++i) {
    const std::uint32_t pair = plan.pairs[static_cast<std::size_t>(i)];
    out[i - begin] = line[plan.columns[pair >> kPairBits]];
  }
}

// Many positions a row: the rows of dy for it are summed, then it takes its
// own, once.
void choose_from_sums(float* grad, const MaskPlan& plan,
                      const at::Tensor& tokens, const at::Tensor& dy,
                      bool accumulate) {
  const RowsOfDy found = rows_of_dy(plan, tokens);
  const SampledKernels& kernels = sampled_kernels(isa());
  const auto in = static_cast<std::size_t>(plan.in);
  std::vector<float> line((in + 63) / 64 * 64), chosen(accumulate ? in : 0);
  const auto* from = dy.const_data_ptr<float>();
  for (std::size_t r = 0; r < plan.rows.size(); ++r) {
    float* out = grad + plan.row_begin[r];
    const std::int64_t k = plan.row_begin[r + 1] - plan.row_begin[r];
    const std::int32_t begin = found.begin[r], end = found.begin[r + 1];
    if (begin == end) {
      if (!accumulate) std::fill(out, out + k, 0.0f);
      continue;
    }
    const auto row_of_dy = [&](std::int32_t i) {
      return from + found.order[static_cast<std::size_t>(i)] * dy.stride(0);
    };
    std::copy_n(row_of_dy(begin), in, line.begin());
    for (std::int32_t i = begin + 1; i < end; ++i) {
      add(line.data(), row_of_dy(i), plan.in);
    }
    choose(accumulate ? chosen.data() : out, plan, r, line.data(), kernels);
    if (accumulate) add(out, chosen.data(), k);
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
  const auto touched = static_cast<std::int64_t>(plan.rows.size());
  if (plan.size() * kSparse >= touched * plan.in) {
    return choose_from_sums(out, plan, tokens, dy, accumulate);
  }
  if (!accumulate) std::fill(out, out + plan.size(), 0.0f);
  add_rows(out, plan, tokens, dy);
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
