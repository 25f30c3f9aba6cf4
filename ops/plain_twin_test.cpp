// Twins that also serve tensors off the CPU, against the kernels.
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros.h>
#include <gtest/gtest.h>

#include "ops/layout.h"
#include "ops/loss.h"
#include "ops/masked_gradient.h"
#include "ops/reference.h"
#include "ops/squared_gradient.h"
#include "ops/test_tensors.h"

namespace thinwire {
namespace {

using test::copy_leaf;
using test::largest_difference;
using test::normal;

// What `run` leaves in a copy of `start`, by the kernel and by its twin.
template <class Run>
void expect_alike(const at::Tensor& start, const Run& run) {
  at::Tensor kernel = start.clone(), twin = start.clone();
  run(kernel);
  {
    const UseReferenceOps reference;
    run(twin);
  }
  EXPECT_GT(largest_difference(kernel, start), 0.1);
  EXPECT_LT(largest_difference(kernel, twin), 1e-5);
}

TEST(PlainTwin, MaskedVectors) {
  const std::int64_t rows = 30, d = 20, tokens = 17;
  const at::Tensor index = at::tensor({0, 19, 20, 45, 46, 333, 599}, at::kInt);
  const MaskPlan plan = make_mask_plan(index, rows, d);
  const at::Tensor token = at::tensor(
      {0, 1, 2, 2, 16, 29, 0, 3, 4, 5, 6, 7, 8, 16, 29, 29, 1}, at::kLong);
  const at::Tensor dy = normal("dy", {tokens, d}), x = normal("x", {tokens, d});
  const at::Tensor mean = normal("mean", {tokens});
  const at::Tensor inverse = normal("inverse", {tokens}).abs();
  const at::Tensor few = at::tensor({2, 3, 17}, at::kInt);
  for (const bool accumulate : {false, true}) {
    expect_alike(normal("g", {plan.size()}), [&](at::Tensor& grad) {
      masked_embedding_gradient(grad, plan, token, dy, accumulate);
    });
    expect_alike(normal("g", {3}), [&](at::Tensor& grad) {
      masked_bias_gradient(grad, few, dy, accumulate);
    });
    for (const bool centred : {false, true}) {
      expect_alike(normal("g", {3}), [&](at::Tensor& grad) {
        masked_norm_gradient(grad, few, dy, x, centred ? mean : at::Tensor(),
                             inverse, accumulate);
      });
    }
  }
}

TEST(PlainTwin, SquaredGradients) {
  WeightUse product, look_up;
  product.offsets = look_up.offsets = {0, 3, 4, 9};
  product.x = normal("x", {9, 6});
  product.dy = normal("dy", {9, 8});
  look_up.rows = at::tensor({0, 7, 7, -1, 2, 2, 2, -1, 3}, at::kLong);
  look_up.dy = normal("dx", {9, 6});
  const std::vector<float> weights{1, 0.5, 2};
  for (const std::vector<WeightUse>& uses :
       {std::vector{product}, std::vector{look_up},
        std::vector{product, look_up, product}}) {
    expect_alike(normal("s", {8, 6}), [&](at::Tensor& squares) {
      add_squared_gradients(squares, uses, weights);
      squares.div_(10);
    });
    expect_alike(normal("g", {8, 6}),
                 [&](at::Tensor& sums) { add_gradients(sums, uses); });
  }
  expect_alike(at::zeros({3, 8}), [&](at::Tensor& sums) {
    sums.copy_(sequence_sums(product.dy, product.offsets));
  });
}

TEST(PlainTwin, RaggedRows) {
  const Layout layout = make_layout({3, 1, 5}, {1, 2, 3});
  const at::Tensor x = normal("x", {9, 4}), by = normal("by", {3, 5, 4});
  const auto run = [&](at::Tensor& grad) {
    const at::Tensor leaf = copy_leaf(x);
    const at::Tensor padded = pad_rows(leaf, layout);
    unpad_rows(padded.mul(by), layout).square().sum().backward();
    grad.copy_(leaf.grad());
  };
  expect_alike(at::zeros({9, 4}), run);
  expect_alike(at::zeros({3, 5, 4}),
               [&](at::Tensor& out) { out.copy_(pad_rows(x, layout)); });
}

TEST(PlainTwin, CrossEntropy) {
  const at::Tensor logits = normal("logits", {5, 7});
  const at::Tensor labels = at::tensor({0, 6, -100, 3, 3}, at::kLong);
  for (const double smoothing : {0.0, 0.1}) {
    expect_alike(at::zeros({5, 7}), [&](at::Tensor& grad) {
      const at::Tensor leaf = copy_leaf(logits);
      cross_entropy_sum(leaf, labels, smoothing).mul(3).backward();
      grad.copy_(leaf.grad());
    });
  }
}

TEST(PlainTwin, HostTensorsFollowTheirOperand) {
  const at::Tensor x = normal("x", {2}), there = x.to(at::kMeta);
  EXPECT_TRUE(beside(x, x).is_same(x));
  const at::Tensor copy = beside(x, there);
  EXPECT_TRUE(copy.is_meta());
  EXPECT_TRUE(beside(x, there).is_same(copy));
  EXPECT_FALSE(beside(normal("y", {2}), there).is_same(copy));
  EXPECT_TRUE(plain_twin(there));
  EXPECT_FALSE(plain_twin(x));
}

}  // namespace
}  // namespace thinwire
