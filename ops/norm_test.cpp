#include "ops/norm.h"

#include <gtest/gtest.h>

#include "ops/test_tensors.h"

namespace thinwire {
namespace {

using test::copy_leaf;
using test::largest_difference;
using test::leaf;
using test::normal;

TEST(RmsNorm, MatchesTheComposite) {
  for (const std::int64_t d : {1, 5, 16, 50, 512}) {
    SCOPED_TRACE(d);
    at::Tensor x = leaf("x", {7, d}), w = leaf("w", {d});
    at::Tensor x2 = copy_leaf(x), w2 = copy_leaf(w);
    const at::Tensor y = rms_norm(x, w, 1e-6);
    const at::Tensor mean = x2.square().mean(-1, true);
    const at::Tensor y2 = w2.mul(x2.mul(mean.add(1e-6).rsqrt()));
    EXPECT_LT(largest_difference(y, y2), 1e-5);
    const at::Tensor g = normal("g", {7, d});
    y.mul(g).sum().backward();
    y2.mul(g).sum().backward();
    // d = 1: the gradient is a difference of two nearly equal numbers.
    EXPECT_LT(largest_difference(x.grad(), x2.grad()), 2e-5);
    EXPECT_LT(largest_difference(w.grad(), w2.grad()), 2e-5);
  }
}

TEST(RmsNorm, FrozenWeightGetsNoGradient) {
  at::Tensor x = leaf("x", {3, 8});
  const at::Tensor w = normal("w", {8});
  rms_norm(x, w, 1e-6).sum().backward();
  EXPECT_TRUE(x.grad().defined());
  EXPECT_FALSE(w.grad().defined());
  EXPECT_FALSE(rms_norm(x.detach(), w, 1e-6).requires_grad());
}

TEST(LayerNorm, MatchesTheComposite) {
  at::Tensor x = leaf("x", {7, 12}), w = leaf("w", {12}), b = leaf("b", {12});
  at::Tensor x2 = copy_leaf(x), w2 = copy_leaf(w), b2 = copy_leaf(b);
  const at::Tensor y = layer_norm(x, w, b, 1e-12);
  const at::Tensor centred = x2.sub(x2.mean(-1, true));
  const at::Tensor variance = centred.square().mean(-1, true);
  const at::Tensor y2 =
      centred.mul(variance.add(1e-12).rsqrt()).mul(w2).add(b2);
  EXPECT_LT(largest_difference(y, y2), 1e-5);
  const at::Tensor g = normal("g", {7, 12});
  y.mul(g).sum().backward();
  y2.mul(g).sum().backward();
  EXPECT_LT(largest_difference(x.grad(), x2.grad()), 1e-5);
  EXPECT_LT(largest_difference(w.grad(), w2.grad()), 1e-5);
  EXPECT_LT(largest_difference(b.grad(), b2.grad()), 1e-5);
}

}  // namespace
}  // namespace thinwire
