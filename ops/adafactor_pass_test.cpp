#include "ops/adafactor_pass.h"

#include <ATen/Parallel.h>
#include <ATen/ops/full.h>
#include <ATen/ops/zeros.h>
#include <ATen/ops/zeros_like.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include "ops/test_tensors.h"

namespace thinwire {
namespace {

using test::normal;

float* data(at::Tensor& t) { return t.mutable_data_ptr<float>(); }

AdafactorStep at_step(std::int64_t step) {
  return {.lr = 0.05,
          .beta1 = 0.9,
          .clip_threshold = 0.7,
          .decay_rate = -0.8,
          .epsilon1 = 1e-30,
          .epsilon2 = 1e-3,
          .weight_decay = 0.1,
          .scale_parameter = true,
          .step = step,
          .grad_scale = 0.25};
}

// The algorithm in fp64, from whole tensors.
struct Twin {
  at::Tensor x, m = {}, v = {}, row = {}, column = {}, towards = {};

  void step(const at::Tensor& grad, const AdafactorStep& s, bool mean) {
    const auto rms = [](const at::Tensor& t) {
      return std::sqrt(t.square().mean().item<double>());
    };
    const at::Tensor g = grad.to(at::kDouble).mul(s.grad_scale);
    const at::Tensor square = g.square().add(s.epsilon1);
    const double rest = std::pow(static_cast<double>(s.step), s.decay_rate);
    const double lr = s.lr * std::max(s.epsilon2, rms(x));
    at::Tensor u;
    if (v.defined()) {
      v = v.mul(1 - rest).add(square, rest);
      u = g.div(v.sqrt());
    } else {
      row = row.mul(1 - rest).add(square.mean(-1), rest);
      column = column.mul(1 - rest).add(square.mean(-2), rest);
      const at::Tensor all = row.unsqueeze(-1)
                                 .mul(column.unsqueeze(-2))
                                 .div(row.mean(-1, true).unsqueeze(-1));
      u = g.div(all.sqrt());
    }
    u = u.mul(lr / std::max(1.0, rms(u) / s.clip_threshold));
    if (mean) u = m = m.mul(s.beta1).add(u, 1 - s.beta1);
    const at::Tensor from = towards.defined() ? x.sub(towards) : x;
    x = x.sub(from, lr * s.weight_decay).sub(u);
  }
};

double error(const at::Tensor& got, const at::Tensor& want) {
  return got.to(at::kDouble).sub(want).norm().item<double>() /
         want.norm().item<double>();
}

// Shapes: of one chunk, of several, with rows longer than a chunk, narrow, and
// stacks of which a chunk must not join two.
TEST(Adafactor, FactoredFollowsTheFormula) {
  for (const std::vector<std::int64_t>& shape :
       std::vector<std::vector<std::int64_t>>{{5, 7},
                                              {700, 50},
                                              {3, 20000},
                                              {9000, 2},
                                              {3, 301, 70},
                                              {2, 3, 4, 5},
                                              {1, 1}}) {
    for (const bool mean : {false, true}) {
      at::Tensor x = normal("x", shape), m = at::zeros_like(x);
      const at::Tensor first = normal("first", shape);
      const std::int64_t rows = *(shape.end() - 2), columns = shape.back();
      const std::int64_t matrices = x.numel() / (rows * columns);
      at::Tensor row = at::zeros({matrices * rows});
      at::Tensor column = at::zeros({matrices * columns});
      Twin twin{.x = x.to(at::kDouble),
                .m = m.to(at::kDouble),
                .row = at::zeros_like(x.select(-1, 0), at::kDouble),
                .column = at::zeros_like(x.select(-2, 0), at::kDouble)};
      if (mean) twin.towards = first.to(at::kDouble);
      for (std::int64_t step = 1; step <= 3; ++step) {
        at::Tensor g = normal("g" + std::to_string(step), shape);
        g.mul_(normal("scale", {columns}).exp());
        if (columns > 1) g.select(-1, 0).zero_();
        adafactor_pass_factored(data(x), g.const_data_ptr<float>(),
                                mean ? data(m) : nullptr, data(row),
                                data(column),
                                mean ? first.const_data_ptr<float>() : nullptr,
                                matrices, rows, columns, at_step(step));
        twin.step(g, at_step(step), mean);
      }
      EXPECT_LT(error(x, twin.x), 5e-7) << at::IntArrayRef(shape);
      EXPECT_LT(error(row.view_as(twin.row), twin.row), 1e-6);
      EXPECT_LT(error(column.view_as(twin.column), twin.column), 1e-6);
      if (mean) {
        EXPECT_LT(error(m, twin.m), 5e-6);
      }
    }
  }
}

TEST(Adafactor, VectorsFollowTheFormula) {
  for (const std::int64_t n : {1, 37, 4096, 70'001}) {
    at::Tensor x = normal("x", {n}), v = at::zeros({n});
    Twin twin{.x = x.to(at::kDouble), .v = v.to(at::kDouble)};
    for (std::int64_t step = 1; step <= 4; ++step) {
      const at::Tensor g = normal("g" + std::to_string(step), {n});
      adafactor_pass(data(x), g.const_data_ptr<float>(), nullptr, data(v),
                     nullptr, nullptr, n, at_step(step));
      twin.step(g, at_step(step), false);
    }
    EXPECT_LT(error(x, twin.x), 5e-7) << n;
    EXPECT_LT(error(v, twin.v), 1e-6) << n;
  }
}

// With the step beside every number: the same where all are of one age; one
// that comes late has the second moment of one whose first step this is.
TEST(Adafactor, ByAgeEqualsTheCommonStep) {
  constexpr std::int64_t n = 5003;
  at::Tensor even = normal("x", {n}), even_v = at::zeros({n});
  at::Tensor x = even.clone(), v = at::zeros({n}), ages = at::zeros({n});
  for (std::int64_t step = 1; step <= 5; ++step) {
    const at::Tensor g = normal("g" + std::to_string(step), {n});
    const auto* grads = g.const_data_ptr<float>();
    ages.add_(1);
    adafactor_pass(data(even), grads, nullptr, data(even_v), nullptr, nullptr,
                   n, at_step(step));
    adafactor_pass(data(x), grads, nullptr, data(v), data(ages), nullptr, n,
                   at_step(step));
    EXPECT_LT(test::largest_difference(x, even), 1e-6) << step;
    EXPECT_TRUE(v.equal(even_v)) << step;
  }
  ages[7] = 1;
  v[7] = 0;
  const at::Tensor g = normal("late", {n});
  adafactor_pass(data(x), g.const_data_ptr<float>(), nullptr, data(v),
                 data(ages), nullptr, n, at_step(6));
  EXPECT_EQ(v[7].item<float>(), 0.0625f * g[7].square().item<float>());
}

TEST(Adafactor, AUpdateIsNoLongerThanTheThreshold) {
  constexpr std::int64_t n = 1000;
  at::Tensor x = at::zeros({n}), v = at::zeros({n});
  AdafactorStep s = at_step(1);
  s.scale_parameter = false;
  adafactor_pass(data(x), normal("g", {n}).const_data_ptr<float>(), nullptr,
                 data(v), nullptr, nullptr, n, s);
  // The first update is a sign: of root mean square 1, cut to 0.7.
  EXPECT_TRUE(x.abs().allclose(at::full({n}, 0.05f * 0.7f)));
}

TEST(Adafactor, IsTheSameForEveryThreadCount) {
  const std::vector<std::int64_t> shape = {1200, 130};
  std::vector<at::Tensor> made;
  for (const int threads : {1, 3}) {
    at::set_num_threads(threads);
    at::Tensor x = normal("x", shape), row = at::zeros({1200});
    at::Tensor column = at::zeros({130});
    for (std::int64_t step = 1; step <= 3; ++step) {
      const at::Tensor g = normal("g" + std::to_string(step), shape);
      adafactor_pass_factored(data(x), g.const_data_ptr<float>(), nullptr,
                              data(row), data(column), nullptr, 1, 1200, 130,
                              at_step(step));
    }
    made.push_back(x);
  }
  at::set_num_threads(1);
  EXPECT_TRUE(made[0].equal(made[1]));
}

TEST(Adafactor, ZeroGradientsAndNothingAtAll) {
  at::Tensor x = at::full({4, 4}, 1.0f), row = at::zeros({4});
  at::Tensor column = at::zeros({4});
  const at::Tensor g = at::zeros({4, 4});
  AdafactorStep s = at_step(1);
  s.weight_decay = 0;
  adafactor_pass_factored(data(x), g.const_data_ptr<float>(), nullptr,
                          data(row), data(column), nullptr, 1, 4, 4, s);
  EXPECT_TRUE(x.equal(at::full({4, 4}, 1.0f)));
  adafactor_pass(nullptr, nullptr, nullptr, nullptr, nullptr, nullptr, 0, s);
}

}  // namespace
}  // namespace thinwire
