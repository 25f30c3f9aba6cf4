#include "ops/block_steps.h"

#include <ATen/Parallel.h>
#include <gtest/gtest.h>

#include <cmath>

#include "base/error.h"
#include "ops/norm.h"
#include "ops/test_tensors.h"

namespace thinwire {
namespace {

using test::copy_leaf;
using test::largest_difference;
using test::leaf;
using test::normal;

const DropoutKey kKey{.seed = 3, .step = 11, .site = dropout_site("x")};

Layout rows_of(std::int64_t n) { return make_layout({2, n - 2}, {5, 9}); }

TEST(DropoutAdd, IsDropoutThenAddToTheBit) {
  for (const std::int64_t d : {1, 17, 64, 700}) {
    for (const double p : {0.0, 0.3}) {
      const Layout l = rows_of(6);
      at::Tensor x = leaf("x", {6, d}), u = leaf("u", {6, d});
      at::Tensor x2 = copy_leaf(x), u2 = copy_leaf(u);
      const at::Tensor y = dropout_add(x, u, p, kKey, l);
      const at::Tensor y2 = x2.add(dropout(u2, p, kKey, l));
      EXPECT_TRUE(y.equal(y2));
      const at::Tensor g = normal("g", {6, d});
      y.mul(g).sum().backward();
      y2.mul(g).sum().backward();
      EXPECT_TRUE(x.grad().equal(x2.grad()));
      EXPECT_TRUE(u.grad().equal(u2.grad()));
    }
  }
}

TEST(DropoutAdd, OnlyWhatTrainsGetsAGradient) {
  const Layout l = rows_of(6);
  at::Tensor u = leaf("u", {6, 8});
  const at::Tensor x = normal("x", {6, 8});
  dropout_add(x, u, 0.2, kKey, l).sum().backward();
  EXPECT_FALSE(x.grad().defined());
  EXPECT_TRUE(u.grad().defined());
  EXPECT_FALSE(dropout_add(x, x, 0.2, kKey, l).requires_grad());
  EXPECT_THROW(dropout_add(x, x, 1, kKey, l), UsageError);
}

TEST(ReluDropout, IsReluThenDropoutToTheBit) {
  for (const std::int64_t d : {1, 15, 16, 33, 700}) {
    for (const double p : {0.0, 0.3}) {
      const Layout l = rows_of(6);
      at::Tensor x = leaf("x", {6, d}), x2 = copy_leaf(x);
      const at::Tensor y = relu_dropout(x, p, kKey, l);
      const at::Tensor y2 = dropout(x2.relu(), p, kKey, l);
      EXPECT_TRUE(y.equal(y2));
      const at::Tensor g = normal("g", {6, d});
      y.mul(g).sum().backward();
      y2.mul(g).sum().backward();
      EXPECT_TRUE(x.grad().equal(x2.grad())) << d << " " << p;
    }
  }
}

TEST(ReluDropout, NanStaysInKeptPlaces) {
  const Layout l = rows_of(3);
  at::Tensor x = normal("x", {3, 40}).mul(NAN);
  EXPECT_TRUE(relu_dropout(x, 0, kKey, l).isnan().all().item<bool>());
  EXPECT_EQ(relu_dropout(x.mul(0).nan_to_num(-INFINITY), 0, kKey, l)
                .abs()
                .max()
                .item<float>(),
            0);
}

struct NormCase {
  at::Tensor x, u, w, b;
  explicit NormCase(std::int64_t d)
      : x(leaf("x", {6, d})),
        u(leaf("u", {6, d})),
        w(leaf("w", {d})),
        b(leaf("b", {d})) {}
};

TEST(DropoutAddLayerNorm, MatchesTheStepsOneByOne) {
  for (const std::int64_t d : {5, 16, 50, 768}) {
    for (const double p : {0.0, 0.3}) {
      SCOPED_TRACE(testing::Message() << d << " " << p);
      const Layout l = rows_of(6);
      const NormCase a(d), c(d);
      const at::Tensor y =
          dropout_add_layer_norm(a.x, a.u, p, kKey, l, a.w, a.b, 1e-12);
      const at::Tensor y2 =
          layer_norm(c.x.add(dropout(c.u, p, kKey, l)), c.w, c.b, 1e-12);
      EXPECT_LT(largest_difference(y, y2), 1e-5);
      const at::Tensor g = normal("g", {6, d});
      y.mul(g).sum().backward();
      y2.mul(g).sum().backward();
      EXPECT_LT(largest_difference(a.x.grad(), c.x.grad()), 2e-5);
      EXPECT_LT(largest_difference(a.u.grad(), c.u.grad()), 2e-5);
      EXPECT_LT(largest_difference(a.w.grad(), c.w.grad()), 2e-5);
      EXPECT_LT(largest_difference(a.b.grad(), c.b.grad()), 2e-5);
    }
  }
}

TEST(DropoutAddLayerNorm, WithoutAGraphAndWithFrozenParametersTheSame) {
  const Layout l = rows_of(6);
  const NormCase a(40), c(40);
  const at::Tensor y = dropout_add_layer_norm(
      a.x, a.u, 0.3, kKey, l, a.w.detach(), a.b.detach(), 1e-12);
  const at::Tensor bare =
      dropout_add_layer_norm(a.x.detach(), a.u.detach(), 0.3, kKey, l,
                             a.w.detach(), a.b.detach(), 1e-12);
  EXPECT_FALSE(bare.requires_grad());
  EXPECT_TRUE(y.equal(bare));
  const at::Tensor full =
      dropout_add_layer_norm(c.x, c.u, 0.3, kKey, l, c.w, c.b, 1e-12);
  y.square().sum().backward();
  full.square().sum().backward();
  EXPECT_TRUE(a.x.grad().equal(c.x.grad()));
  EXPECT_FALSE(a.w.grad().defined());
}

TEST(BlockSteps, SameBitsForAnyCountOfThreads) {
  const Layout l = rows_of(300);
  const int before = at::get_num_threads();
  std::vector<at::Tensor> grads;
  for (const int threads : {1, 3}) {
    at::set_num_threads(threads);
    at::Tensor x = leaf("x", {300, 600}), w = leaf("w", {600}),
               b = leaf("b", {600});
    const at::Tensor y =
        dropout_add_layer_norm(relu_dropout(x, 0.1, kKey, l),
                               rms_norm(x, w, 1e-6), 0.1, kKey, l, w, b, 1e-6);
    y.square().sum().backward();
    grads.push_back(x.grad());
    grads.push_back(w.grad());
    grads.push_back(b.grad());
  }
  at::set_num_threads(before);
  for (std::size_t i = 0; i < 3; ++i) EXPECT_TRUE(grads[i].equal(grads[i + 3]));
}

}  // namespace
}  // namespace thinwire
