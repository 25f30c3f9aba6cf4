#define TORCH_ASSERT_ONLY_METHOD_OPERATORS
#include "ops/dropout.h"

#include <ATen/Parallel.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <memory>
#include <utility>
#include <vector>

#include "base/error.h"
#include "ops/backward.h"
#include "ops/device_kernels.h"
#include "ops/dropout_draw.h"
#include "ops/dropout_rows.h"
#include "ops/reference.h"

namespace thinwire {
namespace {

// Which numbers a tensor's rows draw; shared by forward and backward.
struct Plan {
  explicit Plan(const DropoutDraw& numbers) : draw(numbers) {}

  DropoutDraw draw;
  // int64, in the CPU's memory: per row of [rows, d] (or, heads > 0, per (b, i)
  // of [b, heads, i, d]).
  at::Tensor samples, positions;
  std::int64_t heads = 0;
  std::int64_t queries = 0;  // heads > 0: rows per head
  at::Tensor lengths;        // heads > 0: queries that exist, per b

  RowDraw row(std::int64_t i, std::uint32_t row_site) const {
    return draw.row(
        static_cast<std::uint64_t>(samples.const_data_ptr<std::int64_t>()[i]),
        static_cast<std::uint32_t>(positions.const_data_ptr<std::int64_t>()[i]),
        row_site);
  }
};
using PlanPtr = std::shared_ptr<const Plan>;

void fill(const Plan& plan, float* out, const float* in, std::int64_t rows,
          std::int64_t d) {
  const std::int64_t grain = std::max<std::int64_t>(1, 16384 / (d + 1));
  const auto* lengths =
      plan.heads == 0 ? nullptr : plan.lengths.const_data_ptr<std::int64_t>();
  at::parallel_for(0, rows, grain, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t r = begin; r < end; ++r) {
      float* to = out + r * d;
      if (plan.heads == 0) {
        drop_row(to, in + r * d, d, plan.row(r, plan.draw.site), plan.draw);
        continue;
      }
      const std::int64_t i = r % plan.queries;
      const std::int64_t head = r / plan.queries % plan.heads;
      const std::int64_t b = r / plan.queries / plan.heads;
      if (i >= lengths[b]) {
        std::fill_n(to, d, 0.0f);  // no such query
        continue;
      }
      drop_row(to, in + r * d, d,
               plan.row(b * plan.queries + i, plan.draw.head_site(head)),
               plan.draw);
    }
  });
}

// Where no kernel draws, the factors are drawn here and copied.
at::Tensor drop_elsewhere(const at::Tensor& in, const Plan& plan) {
  const std::int64_t d = in.size(-1), rows = d == 0 ? 0 : in.numel() / d;
  if (device_kernels() == nullptr) {
    const at::Tensor ones = at::ones(in.sizes(), at::kFloat);
    at::Tensor factors = at::empty_like(ones);
    fill(plan, factors.mutable_data_ptr<float>(), ones.const_data_ptr<float>(),
         rows, d);
    return in.mul(factors.to(in.device()));
  }
  at::Tensor out = at::empty_like(in);
  const at::Tensor samples = beside(plan.samples, in);
  const at::Tensor positions = beside(plan.positions, in);
  DropoutJob job{.out = out.mutable_data_ptr<float>(),
                 .in = in.const_data_ptr<float>(),
                 .samples = samples.const_data_ptr<std::int64_t>(),
                 .positions = positions.const_data_ptr<std::int64_t>(),
                 .rows = rows,
                 .d = d,
                 .heads = plan.heads,
                 .queries = plan.queries,
                 .key = plan.draw.key,
                 .site = plan.draw.site,
                 .threshold = plan.draw.threshold,
                 .scale = plan.draw.scale};
  at::Tensor lengths;
  if (plan.heads > 0) {
    lengths = beside(plan.lengths, in);
    job.lengths = lengths.const_data_ptr<std::int64_t>();
  }
  check_kernel(device_kernels()->dropout(job), "dropout");
  return out;
}

at::Tensor dropped(const at::Tensor& in, const Plan& plan) {
  if (!in.is_cpu()) return drop_elsewhere(in.detach(), plan);
  at::Tensor out = at::empty_like(in, in.options().requires_grad(false));
  const std::int64_t d = in.size(-1);
  fill(plan, out.mutable_data_ptr<float>(), in.const_data_ptr<float>(),
       d == 0 ? 0 : in.numel() / d, d);
  return out;
}

// Linear in x, so its backward is itself with the same plan.
at::Tensor drop(const at::Tensor& x, const PlanPtr& plan) {
  at::Tensor out = dropped(x.contiguous(), *plan);
  return with_backward(
      std::move(out), {x},
      [plan](const at::Tensor& grad, const std::vector<bool>&) {
        return std::vector<at::Tensor>{drop(grad, plan)};
      },
      "dropout", true);
}

at::Tensor int64_zeros(std::int64_t n) { return at::zeros({n}, at::kLong); }

std::shared_ptr<Plan> make_plan(double p, const DropoutKey& key) {
  return std::make_shared<Plan>(DropoutDraw(p, key));
}

void check_input(const at::Tensor& x, std::int64_t rows) {
  THINWIRE_ASSERT(x.scalar_type() == at::kFloat && x.size(0) == rows,
                  "dropout of {} rows of {}, expected {} of fp32", x.size(0),
                  c10::toString(x.scalar_type()), rows);
}

}  // namespace

std::uint32_t dropout_site(std::string_view name) {
  return static_cast<std::uint32_t>(name_seed(name));
}

at::Tensor dropout(const at::Tensor& x, double p, const DropoutKey& key,
                   const Layout& layout) {
  if (p == 0) return x;
  check_input(x, layout.rows());
  auto plan = make_plan(p, key);
  plan->samples = layout.samples;
  plan->positions = layout.positions;
  return drop(x, plan);
}

at::Tensor dropout_pooled(const at::Tensor& x, double p, const DropoutKey& key,
                          const Layout& layout) {
  if (p == 0) return x;
  check_input(x, layout.batch());
  auto plan = make_plan(p, key);
  const auto* samples = layout.samples.const_data_ptr<std::int64_t>();
  plan->samples = int64_zeros(layout.batch());
  plan->positions = int64_zeros(layout.batch());
  auto* own = plan->samples.mutable_data_ptr<std::int64_t>();
  for (std::int64_t b = 0; b < layout.batch(); ++b) {
    own[b] = samples[layout.offsets[static_cast<std::size_t>(b)]];
  }
  return drop(x, plan);
}

at::Tensor dropout_attention(const at::Tensor& weights, double p,
                             const DropoutKey& key, const Layout& queries) {
  if (p == 0) return weights;
  check_input(weights, queries.batch());
  THINWIRE_ASSERT(weights.dim() == 4 && weights.size(2) == queries.max_length,
                  "attention weights of {} dimensions, {} queries",
                  weights.dim(), queries.max_length);
  auto plan = make_plan(p, key);
  plan->heads = weights.size(1);
  plan->queries = queries.max_length;
  const auto* positions = queries.positions.const_data_ptr<std::int64_t>();
  const auto* samples = queries.samples.const_data_ptr<std::int64_t>();
  plan->samples = int64_zeros(queries.batch() * queries.max_length);
  plan->positions = int64_zeros(queries.batch() * queries.max_length);
  plan->lengths = int64_zeros(queries.batch());
  auto* sample = plan->samples.mutable_data_ptr<std::int64_t>();
  auto* position = plan->positions.mutable_data_ptr<std::int64_t>();
  for (std::int64_t b = 0; b < queries.batch(); ++b) {
    const auto begin = queries.offsets[static_cast<std::size_t>(b)];
    const auto length =
        queries.offsets[static_cast<std::size_t>(b) + 1] - begin;
    plan->lengths.mutable_data_ptr<std::int64_t>()[b] = length;
    for (std::int64_t i = 0; i < length; ++i) {
      const std::int64_t cell = b * queries.max_length + i;
      sample[cell] = samples[begin + i];
      position[cell] = positions[begin + i];
    }
  }
  return drop(weights, plan);
}

}  // namespace thinwire
