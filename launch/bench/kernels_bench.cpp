#define TORCH_ASSERT_ONLY_METHOD_OPERATORS
#include "launch/bench/kernels_bench.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstring>
#include <functional>

#include "base/error.h"
#include "base/random.h"
#include "launch/bench/comm_bench.h"
#include "ops/masked_gradient.h"

namespace thinwire {
namespace {

using Clock = std::chrono::steady_clock;

double seconds_of(const std::function<void()>& work) {
  const auto begin = Clock::now();
  work();
  return std::chrono::duration<double>(Clock::now() - begin).count();
}

at::Tensor normal(std::string_view name, const std::vector<std::int64_t>& shape,
                  at::ScalarType dtype = at::kFloat) {
  at::Tensor out = at::empty(shape, at::TensorOptions().dtype(at::kFloat));
  fill_normal(out.data_ptr<float>(), out.numel(), 1, name, 1.0f);
  return out.to(dtype);
}

// Every position with this probability.
at::Tensor uniform_positions(std::int64_t n, double density) {
  std::vector<std::int32_t> chosen;
  const auto limit = static_cast<std::uint64_t>(density * 0x1p32);
  for (std::int64_t i = 0; i < n; ++i) {
    if (mix64(static_cast<std::uint64_t>(i) ^ 0x5eed) >> 32 < limit) {
      chosen.push_back(static_cast<std::int32_t>(i));
    }
  }
  at::Tensor out = at::empty({static_cast<std::int64_t>(chosen.size())},
                             at::TensorOptions().dtype(at::kInt));
  std::ranges::copy(chosen, out.mutable_data_ptr<std::int32_t>());
  return out;
}

// One tensor's two sides: the masked gradient, and the dense one as a whole.
struct Case {
  std::function<void(at::Tensor& grad)> masked;
  std::function<void()> dense;           // into `full`
  std::function<at::Tensor()> expected;  // gathered from `full`
  double allowed = 0;
};

// Sums of `rows` products of normal numbers, in two orders.
double rounding(std::int64_t rows) {
  return 1e-6 + 2e-6 * static_cast<double>(rows);
}

Case linear_case(const KernelTensor& t, const MaskPlan& plan,
                 at::ScalarType dtype) {
  const at::Tensor x = normal("x", {t.rows, t.in}, dtype);
  const at::Tensor dy = normal("dy", {t.rows, t.out}, dtype);
  at::Tensor full = at::empty({t.out, t.in}, x.options());
  Case out;
  out.masked = [&plan, x, dy](at::Tensor& grad) {
    masked_gradient(grad, plan, x, dy);
  };
  out.dense = [x, dy, full]() mutable { at::mm_out(full, dy.t(), x); };
  out.expected = [&plan, x, dy, full] {
    if (x.scalar_type() == at::kFloat) {
      return full.flatten().index_select(0, plan.index);
    }
    // The library rounds its sums to bf16.
    at::Tensor sums = at::empty({plan.size()});
    masked_gradient_reference(sums, plan, x, dy);
    return sums;
  };
  out.allowed = rounding(t.rows);
  return out;
}

Case embedding_case(const KernelTensor& t, const MaskPlan& plan) {
  const at::Tensor dy = normal("dy", {t.rows, t.in});
  at::Tensor tokens = at::empty({t.rows}, at::TensorOptions().dtype(at::kLong));
  for (std::int64_t i = 0; i < t.rows; ++i) {
    tokens.mutable_data_ptr<std::int64_t>()[i] =
        static_cast<std::int64_t>(mix64(static_cast<std::uint64_t>(i)) %
                                  static_cast<std::uint64_t>(t.out));
  }
  auto full = std::make_shared<at::Tensor>();
  Case out;
  out.masked = [&plan, tokens, dy](at::Tensor& grad) {
    masked_embedding_gradient(grad, plan, tokens, dy);
  };
  out.dense = [full, tokens, dy, shape = std::array{t.out, t.in}] {
    *full = at::zeros(shape, dy.options()).index_add_(0, tokens, dy);
  };
  out.expected = [&plan, full] {
    return full->flatten().index_select(0, plan.index);
  };
  out.allowed = rounding(t.rows);
  return out;
}

Case vector_case(const KernelTensor& t, const MaskPlan& plan) {
  const bool norm = t.kind == KernelKind::kNorm;
  const at::Tensor x = normal("x", {t.rows, t.in});
  const at::Tensor dy = normal("dy", {t.rows, t.in});
  const at::Tensor inverse = normal("inverse", {t.rows});
  auto full = std::make_shared<at::Tensor>();
  Case out;
  out.masked = [&plan, norm, x, dy, inverse](at::Tensor& grad) {
    if (norm) {
      masked_norm_gradient(grad, plan.index, dy, x, {}, inverse);
    } else {
      masked_bias_gradient(grad, plan.index, dy);
    }
  };
  out.dense = [full, norm, x, dy, inverse] {
    *full = norm ? dy.mul(x).mul_(inverse.unsqueeze(1)).sum(0) : dy.sum(0);
  };
  out.expected = [&plan, full] { return full->index_select(0, plan.index); };
  out.allowed = rounding(t.rows);
  return out;
}

Case case_of(const KernelTensor& t, const MaskPlan& plan,
             at::ScalarType dtype) {
  if (t.kind == KernelKind::kLinear) return linear_case(t, plan, dtype);
  if (t.kind == KernelKind::kEmbedding) return embedding_case(t, plan);
  return vector_case(t, plan);
}

void check(const KernelRow& row, const at::Tensor& grad,
           const at::Tensor& expected) {
  if (row.error <= row.allowed) return;
  const std::int64_t at =
      grad.sub(expected).abs().argmax().item<std::int64_t>();
  fail<InternalError>(
      "wrong answer: {} [{}, {}], path {}: position {} is {}, the dense "
      "gradient has {} (allowed difference {:.1g})",
      row.name, row.out, row.in, row.path, at, grad[at].item<float>(),
      expected[at].item<float>(), row.allowed);
}

// Calls that last this long together are timed as one.
constexpr double kLeastSeconds = 2e-4;

void measure(KernelRow& row, const Case& c, int rounds) {
  at::Tensor grad = at::empty({row.k});
  c.masked(grad);
  c.dense();
  const at::Tensor expected = c.expected();
  row.error = row.k == 0 ? 0 : grad.sub(expected).abs().max().item<double>();
  row.allowed = c.allowed;
  if (!(row.error <= row.allowed)) check(row, grad, expected);
  const double once = seconds_of([&] { c.masked(grad); });
  const int calls =
      std::clamp(static_cast<int>(kLeastSeconds / (once + 1e-9)), 1, 1000);
  for (int i = 0; i < rounds; ++i) {
    row.each.push_back(seconds_of([&] {
                         for (int j = 0; j < calls; ++j) c.masked(grad);
                       }) /
                       calls);
    row.each_dense.push_back(seconds_of(c.dense));
  }
  row.seconds = quantile(row.each, 0.5);
  row.dense = quantile(row.each_dense, 0.5);
}

KernelRow bench_tensor(const KernelTensor& t, const at::Tensor& index,
                       const KernelsBenchOptions& options) {
  MaskPlan plan;
  KernelRow row;
  row.name = t.name;
  row.kind = t.kind;
  row.out = t.out;
  row.in = t.in;
  row.rows = t.rows;
  row.k = index.numel();
  row.plan =
      seconds_of([&] { plan = make_mask_plan(index, t.out, t.in, t.name); });
  row.path = t.kind == KernelKind::kLinear
                 ? std::string(name_of(choose_mask_path(plan, t.rows)))
                 : (row.k == 0 ? "empty" : "positions");
  measure(row, case_of(t, plan, options.dtype), options.rounds);
  return row;
}

bool alike(const KernelTensor& a, const KernelTensor& b) {
  return a.group == b.group && a.kind == b.kind && a.out == b.out &&
         a.in == b.in && a.rows == b.rows;
}

}  // namespace

std::vector<KernelRow> bench_kernels(const KernelsBenchOptions& options) {
  std::vector<KernelRow> rows;
  std::vector<KernelTensor> seen;
  for (const KernelTensor& t : options.tensors) {
    if (!options.masks.empty()) {
      const auto found = options.masks.find(t.name);
      rows.push_back(bench_tensor(t,
                                  found != options.masks.end()
                                      ? found->second
                                      : uniform_positions(0, 0),
                                  options));
      continue;
    }
    const auto same = std::ranges::find_if(
        seen, [&](const KernelTensor& other) { return alike(t, other); });
    if (same != seen.end()) {
      ++rows[static_cast<std::size_t>(same - seen.begin())].tensors;
      continue;
    }
    seen.push_back(t);
    rows.push_back(bench_tensor(
        t, uniform_positions(t.out * t.in, options.density), options));
    rows.back().name = t.group;
  }
  return rows;
}

Roofline measure_roofline(const std::vector<KernelRow>& rows) {
  Roofline out;
  constexpr std::int64_t kSide = 1024, kBytes = 64 << 20;
  const at::Tensor a = normal("a", {kSide, kSide}),
                   b = normal("b", {kSide, kSide});
  at::Tensor c = at::empty({kSide, kSide});
  std::vector<char> from(kBytes, 1), to(kBytes, 2);
  for (int i = 0; i < 5; ++i) {
    const double product = seconds_of([&] { at::mm_out(c, a, b); });
    out.multiply_rate =
        std::max(out.multiply_rate, 2.0 * kSide * kSide * kSide / product);
    const double copy =
        seconds_of([&] { std::memcpy(to.data(), from.data(), kBytes); });
    out.copy_rate = std::max(out.copy_rate, 2.0 * kBytes / copy);
  }
  for (const KernelRow& row : rows) {
    if (row.kind != KernelKind::kLinear) continue;
    const double work = 2.0 * static_cast<double>(row.out) *
                        static_cast<double>(row.in) *
                        static_cast<double>(row.rows);
    out.multiply_rate = std::max(
        out.multiply_rate, work / *std::ranges::min_element(row.each_dense));
  }
  return out;
}

}  // namespace thinwire
