#include "ops/linear.h"

#include <ATen/ops/linear.h>
#include <gtest/gtest.h>

#include <vector>

#include "ops/test_tensors.h"

namespace thinwire {
namespace {

using test::copy_leaf;
using test::largest_difference;
using test::leaf;
using test::normal;

at::Tensor plain(const at::Tensor& x, const at::Tensor& w, const at::Tensor& b,
                 const LowRank& low) {
  return at::linear(x, w, b).add(
      at::linear(at::linear(x, low.a), low.b).mul(low.scale));
}

TEST(Linear, OutputAndEveryGradientAgreeWithThePlainProduct) {
  for (const std::int64_t rows : {1, 5, 70}) {
    const at::Tensor x = leaf("x", {rows, 48}), w = leaf("w", {33, 48}),
                     b = leaf("b", {33}), a = leaf("A", {4, 48}),
                     u = leaf("B", {33, 4}), grad = normal("g", {rows, 33});
    const at::Tensor x2 = copy_leaf(x), w2 = copy_leaf(w), b2 = copy_leaf(b),
                     a2 = copy_leaf(a), u2 = copy_leaf(u);
    const at::Tensor y = linear(x, w, b, {a, u, 0.25}),
                     want = plain(x2, w2, b2, {a2, u2, 0.25});
    EXPECT_LT(largest_difference(y, want), 2e-5);
    y.backward(grad);
    want.backward(grad);
    EXPECT_LT(largest_difference(x.grad(), x2.grad()), 2e-5);
    EXPECT_LT(largest_difference(w.grad(), w2.grad()), 2e-5);
    EXPECT_LT(largest_difference(b.grad(), b2.grad()), 2e-5);
    EXPECT_LT(largest_difference(a.grad(), a2.grad()), 2e-5);
    EXPECT_LT(largest_difference(u.grad(), u2.grad()), 2e-5);
  }
}

// The same numbers from a weight that lies [in, out], in every type.
TEST(Linear, AWeightThatLiesTheOtherWayGivesTheSame) {
  for (const std::int64_t rows : {1, 5, 70}) {
    for (const auto type : {at::kFloat, at::kBFloat16}) {
      const at::Tensor w = normal("w", {34, 48}).to(type),
                       b = normal("b", {34}), grad = normal("g", {rows, 34});
      std::vector<at::Tensor> results[2];
      for (const bool turned : {false, true}) {
        at::Tensor x = leaf("x", {rows, 48}), a = leaf("A", {4, 48}),
                   u = leaf("B", {34, 4}),
                   own = (turned ? w.t().contiguous() : w.clone());
        own.requires_grad_(true);
        const at::Tensor y =
            linear(x, own, b, {a, u, 0.25}, {},
                   turned ? WeightAxes::kInOut : WeightAxes::kOutIn);
        y.backward(grad);
        results[turned] = {
            y.detach(), x.grad(), a.grad(), u.grad(),
            (turned ? own.grad().t() : own.grad()).to(at::kFloat)};
      }
      for (std::size_t i = 0; i < results[0].size(); ++i) {
        EXPECT_LT(largest_difference(results[0][i], results[1][i]),
                  i == 4 && type == at::kBFloat16 ? 0.07 : 2e-5)
            << i << ": " << rows;
      }
    }
  }
}

TEST(Linear, KeepsItsInputOnlyWhereAWeightTrains) {
  const at::Tensor frozen = normal("w", {33, 48}), u = leaf("B", {33, 4});
  const auto uses = [&](const at::Tensor& w, const LowRank& low) {
    const at::Tensor x = leaf("x", {20, 48});
    const at::Tensor y = linear(x, w, {}, low);
    return x.storage().use_count();  // x itself and who else holds its numbers
  };
  EXPECT_EQ(uses(frozen, {}), 1);
  EXPECT_EQ(uses(leaf("w", {33, 48}), {}), 2);
  EXPECT_EQ(uses(frozen, {leaf("A", {4, 48}), u}), 2);
  EXPECT_EQ(uses(frozen, {normal("A", {4, 48}), u}), 1);
}

TEST(Linear, RecordsNothingWhereNothingTrains) {
  const at::Tensor y =
      linear(normal("x", {20, 48}), normal("w", {33, 48}), normal("b", {33}));
  EXPECT_FALSE(y.requires_grad());
}

}  // namespace
}  // namespace thinwire
