#include "ops/masked_parameter.h"

#include <ATen/core/grad_mode.h>
#include <ATen/ops/embedding.h>
#include <ATen/ops/linear.h>
#include <gtest/gtest.h>

#include "base/error.h"
#include "ops/test_tensors.h"

namespace thinwire {
namespace {

using test::copy_leaf;
using test::largest_difference;
using test::leaf;
using test::normal;

at::Tensor index_of(const std::vector<std::int64_t>& places,
                    at::ScalarType type) {
  at::Tensor out = at::empty({static_cast<std::int64_t>(places.size())},
                             at::TensorOptions().dtype(at::kLong));
  std::copy(places.begin(), places.end(), out.data_ptr<std::int64_t>());
  return out.to(type);
}

TEST(MaskedParameter, GradientIsTheDenseOneGathered) {
  for (const auto type : {at::kInt, at::kLong}) {
    const at::Tensor index = index_of({0, 5, 13, 14, 19}, type);
    const at::Tensor weight = normal("w", {4, 5});
    at::Tensor values =
        weight.flatten().index_select(0, index).requires_grad_(true);
    const at::Tensor x = normal("x", {7, 5}), g = normal("g", {7, 4});
    const at::Tensor used = masked_parameter(weight, values, index);
    EXPECT_EQ(used.const_data_ptr(), weight.const_data_ptr());
    at::linear(x, used).mul(g).sum().backward();

    at::Tensor dense = copy_leaf(weight);
    at::linear(x, dense).mul(g).sum().backward();
    EXPECT_EQ(largest_difference(values.grad(),
                                 dense.grad().flatten().index_select(0, index)),
              0);
    EXPECT_FALSE(weight.grad().defined());
  }
}

TEST(MaskedParameter, TiedUsesSum) {
  const at::Tensor index = index_of({1, 4, 6, 7}, at::kInt);
  const at::Tensor weight = normal("w", {4, 3});
  at::Tensor values =
      weight.flatten().index_select(0, index).requires_grad_(true);
  const at::Tensor tokens = index_of({2, 0, 2}, at::kLong);
  const auto run = [&](const at::Tensor& first, const at::Tensor& second) {
    const at::Tensor hidden = at::embedding(first, tokens);
    at::linear(hidden, second).square().sum().backward();
  };
  run(masked_parameter(weight, values, index),
      masked_parameter(weight, values, index));
  at::Tensor dense = copy_leaf(weight);
  run(dense, dense);
  EXPECT_LT(largest_difference(values.grad(),
                               dense.grad().flatten().index_select(0, index)),
            1e-5);
}

// Made without a graph, used in pass after pass, with other numbers each.
TEST(MaskedParameter, OneLastsForManyPasses) {
  const at::Tensor index = index_of({1, 4, 6, 7}, at::kInt);
  const at::Tensor weight = normal("w", {4, 3});
  at::Tensor values =
      weight.flatten().index_select(0, index).requires_grad_(true);
  at::Tensor lasting;
  {
    const at::NoGradGuard no_grad;
    lasting = lasting_masked_parameter(weight, values, index);
  }
  const at::Tensor x = normal("x", {7, 3});
  for (int pass = 0; pass < 3; ++pass) {
    values.mutable_grad() = at::Tensor();
    // Two uses in a pass.
    at::linear(at::linear(x, lasting).square(), lasting.t()).sum().backward();
    at::Tensor dense = copy_leaf(weight);
    at::linear(at::linear(x, dense).square(), dense.t()).sum().backward();
    EXPECT_LT(largest_difference(values.grad(),
                                 dense.grad().flatten().index_select(0, index)),
              1e-5);
    EXPECT_FALSE(weight.grad().defined());
    write_masked(weight, normal("v", {4}).add(pass), index);
  }
}

// The dense gradient arrives rounded once to bf16; what is gathered is exact.
TEST(MaskedParameter, ABf16WeightHasFp32Values) {
  for (const bool turned : {false, true}) {
    const at::Tensor index = index_of({0, 5, 13, 14, 19}, at::kInt);
    const at::Tensor weight = normal("w", {4, 5}).to(at::kBFloat16);
    at::Tensor values = weight.flatten()
                            .index_select(0, index)
                            .to(at::kFloat)
                            .requires_grad_(true);
    at::Tensor dense = copy_leaf(weight);
    const auto run = [&](const at::Tensor& w) {
      const at::Tensor x = normal("x", {7, turned ? 4 : 5}).to(at::kBFloat16);
      const at::Tensor y = at::linear(x, turned ? w.t() : w);
      y.mul(normal("g", {7, turned ? 5 : 4})).sum().backward();
    };
    run(masked_parameter(weight, values, index));
    run(dense);
    ASSERT_EQ(values.grad().scalar_type(), at::kFloat);
    EXPECT_GT(values.grad().norm().item<float>(), 1);
    EXPECT_TRUE(values.grad().equal(
        dense.grad().flatten().index_select(0, index).to(at::kFloat)));
  }
}

TEST(MaskedParameter, OtherShapesAndAnEmptyMask) {
  const at::Tensor bias = normal("b", {6});
  const at::Tensor index = index_of({2, 5}, at::kInt);
  at::Tensor values = bias.index_select(0, index).requires_grad_(true);
  masked_parameter(bias, values, index).mul(normal("g", {6})).sum().backward();
  EXPECT_EQ(largest_difference(values.grad(),
                               normal("g", {6}).index_select(0, index)),
            0);
  at::Tensor none = leaf("none", {0});
  EXPECT_FALSE(
      masked_parameter(bias, none, index_of({}, at::kInt)).requires_grad());
}

TEST(MaskedParameter, WriteBetweenForwardAndBackwardIsNotSeenByAutograd) {
  at::Tensor weight = normal("w", {2, 2});
  const at::Tensor index = index_of({3}, at::kInt);
  at::Tensor values = leaf("v", {1});
  const at::Tensor y =
      at::linear(leaf("x", {1, 2}), masked_parameter(weight, values, index));
  const auto version = weight._version();
  write_masked(weight, values, index);
  EXPECT_EQ(weight._version(), version);
  EXPECT_EQ(weight[1][1].item<float>(), values[0].item<float>());
  EXPECT_EQ(weight[0][1].item<float>(),
            normal("w", {2, 2})[0][1].item<float>());
  y.sum().backward();
  EXPECT_TRUE(values.grad().defined());
}

TEST(MaskedParameter, MismatchedSizesAreABug) {
  EXPECT_THROW(masked_parameter(normal("w", {2, 2}), leaf("v", {2}),
                                index_of({3}, at::kInt)),
               InternalError);
}

}  // namespace
}  // namespace thinwire
