#include "models/parameters.h"

#include <ATen/ops/arange.h>
#include <ATen/ops/full.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/zeros.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/error.h"
#include "models/sites.h"

namespace thinwire {
namespace {

using testing::HasSubstr;

at::Tensor numbers(std::int64_t n, double from = 0) {
  return at::arange(n, at::kFloat).add(from).reshape({2, n / 2});
}

TEST(Parameters, EverySourceOfASlot) {
  Parameters p;
  const ForwardContext ctx;
  const int w = p.add("w", numbers(6));
  EXPECT_FALSE(p.trains(w));
  EXPECT_TRUE(p.get(w, ctx).equal(numbers(6)));
  EXPECT_FALSE(p.get(w, ctx).requires_grad());

  at::Tensor leaf = numbers(6, 10).set_requires_grad(true);
  p.set_leaf(w, leaf);
  EXPECT_TRUE(p.trains(w));
  EXPECT_TRUE(p.get(w, ctx).is_same(leaf));
  p.freeze_all();
  EXPECT_FALSE(p.trains(w));

  p.set_computed(w, [](const ForwardContext& c) {
    return at::full({2, 3}, static_cast<double>(c.step));
  });
  ForwardContext later;
  later.step = 7;
  EXPECT_EQ(p.get(w, later).sum().item<float>(), 42);
  EXPECT_THROW(p.set_leaf(w, leaf), UsageError);
  p.freeze_all();

  p.set_leaf(w, leaf);
  const auto doubled = [&](const ForwardContext&) { return leaf.mul(2); };
  p.set_computed(w, doubled);
  EXPECT_TRUE(p.get(w, ctx).equal(numbers(6, 10).mul(2)));
  p.get(w, ctx).sum().backward();
  EXPECT_EQ(leaf.grad().sum().item<float>(), 12);
  EXPECT_THROW(p.set_computed(w, doubled), UsageError);
  p.freeze_all();
  EXPECT_FALSE(p.trains(w));

  at::Tensor values = at::zeros({2}).set_requires_grad(true);
  p.set_masked(w, values, at::arange(1, 6, 4, at::kInt));
  p.get(w, ctx).mul(numbers(6)).sum().backward();
  EXPECT_EQ(values.grad()[0].item<float>(), 1);
  EXPECT_EQ(values.grad()[1].item<float>(), 5);
}

TEST(Parameters, AnEmptyMaskRecordsNothing) {
  Parameters p;
  const int w = p.add("w", numbers(6));
  p.set_masked(w, at::zeros({0}).set_requires_grad(true),
               at::zeros({0}, at::kInt));
  EXPECT_TRUE(p.trains(w));
  EXPECT_FALSE(p.get(w, {}).requires_grad());
}

TEST(Parameters, MisuseNamesTheTensor) {
  Parameters p;
  const int w = p.add("bert.w", numbers(6));
  EXPECT_THROW(p.add("bert.w", numbers(6)), InternalError);
  EXPECT_THROW(p.add("half", numbers(6).to(at::kHalf)), InternalError);
  const auto error = [](auto&& f) -> std::string {
    try {
      f();
    } catch (const UsageError& e) {
      return e.what();
    }
    return "no error";
  };
  EXPECT_THAT(error([&] {
                p.set_leaf(w, at::zeros({3, 2}));
              }),
              HasSubstr("'bert.w' has shape [3, 2] in the delta, [2, 3]"));
  p.set_leaf(w, at::zeros({2, 3}));
  EXPECT_THAT(error([&] {
                p.set_leaf(w, at::zeros({2, 3}));
              }),
              HasSubstr("two methods want to train 'bert.w'"));
  EXPECT_THAT(error([&] { p.require("bret.w"); }),
              HasSubstr("no parameter 'bret.w' (the nearest is 'bert.w')"));
  EXPECT_EQ(p.find("x"), -1);
}

TEST(Parameters, IdentityIsOfNamesShapesAndBytesWithoutHeads) {
  const auto make = [](bool reversed, double value, bool head) {
    Parameters p;
    const auto a = [&] { p.add("a", numbers(4, value)); };
    const auto b = [&] { p.add("b", numbers(6)); };
    if (reversed) {
      b();
      a();
    } else {
      a();
      b();
    }
    if (head) p.add("classifier", numbers(2), true);
    return p;
  };
  const Digest digest = make(false, 0, false).identity();
  EXPECT_EQ(make(true, 0, false).identity(), digest);
  EXPECT_EQ(make(false, 0, true).identity(), digest);
  EXPECT_NE(make(false, 1e-7, false).identity(), digest);
  EXPECT_EQ(make(false, 0, true).count(), 12);
  EXPECT_EQ(make(false, 0, true).count(false), 10);

  Parameters shape;
  shape.add("a", numbers(4).reshape({4, 1}));
  shape.add("b", numbers(6));
  EXPECT_NE(shape.identity(), digest);
}

}  // namespace
}  // namespace thinwire
