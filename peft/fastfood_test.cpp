#include "peft/fastfood.h"

#include <ATen/ops/cat.h>
#include <ATen/ops/eye.h>
#include <ATen/ops/ones.h>
#include <gtest/gtest.h>

#include <cmath>

#include "peft/method_tools.h"
#include "tests/harness/golden.h"

namespace thinwire {
namespace {

// The matrix [n, D], from its columns.
at::Tensor matrix(const Fastfood& p, std::int64_t dimension,
                  std::size_t tensors) {
  std::vector<at::Tensor> columns;
  const at::Tensor units = at::eye(dimension);
  for (std::int64_t k = 0; k < dimension; ++k) {
    std::vector<at::Tensor> parts;
    for (std::size_t i = 0; i < tensors; ++i) parts.push_back(p(units[k], i));
    columns.push_back(at::cat(parts).unsqueeze(1));
  }
  return at::cat(columns, 1);
}

// Columns have one norm and stand at right angles, but for 1/sqrt(n) of chance;
// rows have norm 1 on average.
TEST(Fastfood, KeepsLengthsAndAngles) {
  for (const std::int64_t dimension : {1, 2, 5, 48, 64}) {
    const Fastfood p(dimension, {3000, 17000}, 1, at::kCPU);
    const at::Tensor m = matrix(p, dimension, 2);
    EXPECT_EQ(m.size(0), 20000);
    const at::Tensor gram = m.t()
                                .matmul(m)
                                .mul(static_cast<double>(dimension) / 20000)
                                .sub(at::eye(dimension));
    EXPECT_LT(gram.abs().max().item<float>(), 8 / std::sqrt(20000.0))
        << dimension;
  }
}

TEST(Fastfood, OneNumberMovesAllAlike) {
  const Fastfood p(1, {100}, 3, at::kCPU);
  const at::Tensor moved = p(at::ones({1}), 0);
  EXPECT_TRUE(golden_close("moved", moved.abs(), at::ones({100}), 1e-6));
  EXPECT_LT(moved.sum().abs().item<float>(), 50);  // signs are random: 5 sigma
}

TEST(Fastfood, TheGradientIsTheTransposedMatrix) {
  const Fastfood p(37, {900, 70}, 2, at::kCPU);
  const at::Tensor m = matrix(p, 37, 2);
  at::Tensor theta = normal_values("theta", {37}, 1, 1).requires_grad_(true);
  const at::Tensor out = at::cat({p(theta, 0), p(theta, 1)});
  EXPECT_TRUE(golden_close("out", out, m.matmul(theta), 1e-5));
  const at::Tensor g = normal_values("g", {970}, 1, 1);
  out.mul(g).sum().backward();
  EXPECT_TRUE(golden_close("grad", theta.grad(), m.t().matmul(g), 1e-5));
}

TEST(Fastfood, IsAFunctionOfTheSeed) {
  const at::Tensor theta = normal_values("theta", {20}, 1, 1);
  const Fastfood one(20, {500}, 1, at::kCPU), again(20, {500}, 1, at::kCPU),
      other(20, {500}, 2, at::kCPU);
  EXPECT_TRUE(one(theta, 0).equal(again(theta, 0)));
  EXPECT_FALSE(one(theta, 0).equal(other(theta, 0)));
}

}  // namespace
}  // namespace thinwire
