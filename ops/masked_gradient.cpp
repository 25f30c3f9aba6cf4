#define TORCH_ASSERT_ONLY_METHOD_OPERATORS
#include "ops/masked_gradient.h"

#include <ATen/Parallel.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/mm.h>

#include <algorithm>
#include <cstring>

#include "base/error.h"
#include "base/isa.h"
#include "ops/device_kernels.h"
#include "ops/masked_product.h"
#include "ops/reference.h"
#include "ops/sampled_dots.h"

namespace thinwire {
namespace {

// Panels of x stay in the second-level cache.
constexpr std::int64_t kPanelNumbers = 160 * 1024;

void check(const at::Tensor& grad, const MaskPlan& plan, const at::Tensor& x,
           const at::Tensor& dy, std::int64_t first_row) {
  const auto rows = [](const at::Tensor& t) {
    return t.dim() == 2 && (t.size(1) <= 1 || t.stride(1) == 1);
  };
  THINWIRE_ASSERT(rows(x) && rows(dy) && x.size(0) == dy.size(0) &&
                      x.size(1) == plan.in && first_row >= 0 &&
                      first_row + dy.size(1) <= plan.out,
                  "x {} columns, dy {} from {}, a mask of [{}, {}]", x.size(-1),
                  dy.size(-1), first_row, plan.out, plan.in);
  THINWIRE_ASSERT(
      x.scalar_type() == dy.scalar_type() &&
          (x.scalar_type() == at::kFloat || x.scalar_type() == at::kBFloat16),
      "x of {}, dy of {}", c10::toString(x.scalar_type()),
      c10::toString(dy.scalar_type()));
  THINWIRE_ASSERT(grad.numel() == plan.size() && grad.is_contiguous() &&
                      grad.scalar_type() == at::kFloat,
                  "{} numbers for {} positions", grad.numel(), plan.size());
}

PanelSource source(const at::Tensor& t) {
  return {t.const_data_ptr(), t.stride(0), t.size(1),
          t.scalar_type() == at::kBFloat16};
}

// A panel of `rows` of an operand, zeros up to `length`.
void make_panel(float* to, int length, const SampledKernels& kernels,
                const PanelSource& from, std::int64_t t, int rows,
                const std::int32_t* columns, std::int64_t n) {
  kernels.transpose(to, length, from, t, rows, columns, n);
  if (rows == length) return;
  for (std::int64_t i = 0; i < n; ++i) {
    std::memset(to + i * length + rows, 0,
                static_cast<std::size_t>(length - rows) * sizeof(float));
  }
}

int panel_length(std::int64_t rows, std::int64_t columns) {
  for (const int length : kPanelLengths) {
    if (length <= rows && length * columns <= kPanelNumbers) return length;
  }
  return kPanelLengths[std::size(kPanelLengths) - 1];
}

// Touched rows [begin, end) against the panel of x.
void dots_of_rows(const MaskPlan& plan, const MaskedOperands& o,
                  const SampledKernels& kernels, const float* x_panel,
                  std::int64_t t, int rows, int length, std::int64_t begin,
                  std::int64_t end) {
  alignas(64) float dy_panel[kPairRows * kMostPanelRows];
  std::int32_t columns[kPairRows];
  // A group's first row is the plan's, so that numbers within it agree.
  const std::int64_t group = begin / kPairRows * kPairRows;
  for (std::int64_t r = begin; r < end; ++r) {
    columns[r - begin] = plan.rows[static_cast<std::size_t>(r)] -
                         static_cast<std::int32_t>(o.first_row);
  }
  make_panel(dy_panel + (begin - group) * length, length, kernels, o.dy, t,
             rows, columns, end - begin);
  const std::int64_t first = plan.row_begin[static_cast<std::size_t>(begin)];
  const std::int64_t last = plan.row_begin[static_cast<std::size_t>(end)];
  kernels.dots(o.grad + first, o.accumulate || t > 0, length,
               plan.pairs.data() + first, last - first, x_panel, dy_panel);
}

void sampled_gradient(const MaskPlan& plan, const MaskedOperands& o) {
  const SampledKernels& kernels = sampled_kernels(isa());
  const auto n = static_cast<std::int64_t>(plan.columns.size());
  const at::Tensor panel = at::empty({n * panel_length(o.tokens, n)},
                                     at::TensorOptions().dtype(at::kFloat));
  float* x_panel = panel.mutable_data_ptr<float>();
  const std::int64_t first = o.row_begin / kPairRows;
  const std::int64_t last = (o.row_end + kPairRows - 1) / kPairRows;
  for (std::int64_t t = 0; t < o.tokens;) {
    const int length = panel_length(o.tokens - t, n);
    const int rows =
        static_cast<int>(std::min<std::int64_t>(length, o.tokens - t));
    constexpr std::int64_t kColumns = 128;  // a thread takes at least
    at::parallel_for(0, n, kColumns, [&](std::int64_t begin, std::int64_t end) {
      make_panel(x_panel + begin * length, length, kernels, o.x, t, rows,
                 plan.columns.data() + begin, end - begin);
    });
    at::parallel_for(first, last, 1, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t g = begin; g < end; ++g) {
        dots_of_rows(plan, o, kernels, x_panel, t, rows, length,
                     std::max(o.row_begin, g * kPairRows),
                     std::min(o.row_end, (g + 1) * kPairRows));
      }
    });
    t += rows;
  }
}

// Off the CPU: the kernel's dot products, or the whole product.
void masked_gradient_elsewhere(at::Tensor& grad, const MaskPlan& plan,
                               const at::Tensor& x, const at::Tensor& dy,
                               const MaskedGradientOptions& options) {
  const bool bf16 = x.scalar_type() == at::kBFloat16;
  const MaskPath path = options.path
                            ? *options.path
                            : choose_device_mask_path(plan, x.size(0), bf16);
  if (device_kernels() == nullptr || path != MaskPath::kSampled) {
    return masked_gradient_reference(grad, plan, x, dy, options);
  }
  const at::NoGradGuard no_grad;
  const at::Tensor index = beside(plan.index, x);
  const at::Tensor columns = x.t().contiguous(), rows = dy.t().contiguous();
  check_kernel(
      device_kernels()->masked_dots({.grad = grad.mutable_data_ptr<float>(),
                                     .index = index.const_data_ptr(),
                                     .wide = index.scalar_type() == at::kLong,
                                     .k = plan.size(),
                                     .in = plan.in,
                                     .x = columns.const_data_ptr(),
                                     .dy = rows.const_data_ptr(),
                                     .bf16 = bf16,
                                     .tokens = x.size(0),
                                     .first_row = options.first_row,
                                     .rows = dy.size(1),
                                     .accumulate = options.accumulate}),
      "masked gradient");
}

}  // namespace

void masked_gradient(at::Tensor& grad, const MaskPlan& plan,
                     const at::Tensor& x, const at::Tensor& dy,
                     const MaskedGradientOptions& options) {
  check(grad, plan, x, dy, options.first_row);
  if (plan.pairs.empty()) return;
  if (!x.is_cpu()) return masked_gradient_elsewhere(grad, plan, x, dy, options);
  const auto row_at = [&](std::int64_t row) {
    return std::ranges::lower_bound(plan.rows, row) - plan.rows.begin();
  };
  const MaskedOperands o{.x = source(x),
                         .dy = source(dy),
                         .tokens = x.size(0),
                         .row_begin = row_at(options.first_row),
                         .row_end = row_at(options.first_row + dy.size(1)),
                         .first_row = options.first_row,
                         .grad = grad.mutable_data_ptr<float>(),
                         .accumulate = options.accumulate};
  if (o.row_begin == o.row_end) return;
  if (o.tokens == 0) {
    if (options.accumulate) return;
    const auto begin = plan.row_begin[static_cast<std::size_t>(o.row_begin)];
    const auto end = plan.row_begin[static_cast<std::size_t>(o.row_end)];
    std::fill(o.grad + begin, o.grad + end, 0.0f);
    return;
  }
  const MaskPath path =
      options.path ? *options.path : choose_mask_path(plan, o.tokens);
  if (path == MaskPath::kSampled) {
    sampled_gradient(plan, o);
  } else {
    masked_product(plan, o, path);
  }
}

void masked_gradient_reference(at::Tensor& grad, const MaskPlan& plan,
                               const at::Tensor& x, const at::Tensor& dy,
                               const MaskedGradientOptions& options) {
  check(grad, plan, x, dy, options.first_row);
  const at::NoGradGuard no_grad;
  const at::Tensor dense =
      x.is_cuda() && x.scalar_type() == at::kBFloat16
          ? at::mm(dy.t(), x, at::kFloat).flatten()
          : at::mm(dy.to(at::kFloat).t(), x.to(at::kFloat)).flatten();
  const at::Tensor index = beside(plan.index, dense).to(at::kLong);
  const std::int64_t first = options.first_row * plan.in;
  if (first == 0 && dy.size(1) == plan.out) {
    const at::Tensor sums = dense.index_select(0, index);
    options.accumulate ? grad.add_(sums) : grad.copy_(sums);
    return;
  }
  const at::Tensor inside = index.ge(first)
                                .logical_and(index.lt(first + dense.numel()))
                                .nonzero()
                                .flatten();
  const at::Tensor sums =
      dense.index_select(0, index.index_select(0, inside).sub(first));
  if (options.accumulate) {
    grad.index_add_(0, inside, sums);
  } else {
    grad.index_copy_(0, inside, sums);
  }
}

}  // namespace thinwire
