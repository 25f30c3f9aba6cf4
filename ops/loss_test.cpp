#include "ops/loss.h"

#include <ATen/core/Reduction.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/cross_entropy_loss.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>

#include "base/error.h"
#include "ops/test_tensors.h"

namespace thinwire {
namespace {

using test::largest_difference;
using test::leaf;
using test::normal;

at::Tensor labels_of(const std::vector<std::int64_t>& labels) {
  at::Tensor out = at::empty({static_cast<std::int64_t>(labels.size())},
                             at::TensorOptions().dtype(at::kLong));
  std::copy(labels.begin(), labels.end(), out.data_ptr<std::int64_t>());
  return out;
}

TEST(CrossEntropy, ValueAndGradientByFormula) {
  at::Tensor logits = leaf("l", {4, 5});
  const std::vector<std::int64_t> labels{2, -100, 0, 4};
  const at::Tensor rows = cross_entropy_rows(logits, labels_of(labels));
  const at::Tensor sum = cross_entropy_sum(logits, labels_of(labels));
  sum.backward();
  double total = 0;
  for (std::int64_t i = 0; i < 4; ++i) {
    double normaliser = 0;
    for (std::int64_t c = 0; c < 5; ++c) {
      normaliser += std::exp(logits[i][c].item<double>());
    }
    const std::int64_t label = labels[static_cast<std::size_t>(i)];
    const bool counts = label != -100;
    const double loss =
        counts ? std::log(normaliser) - logits[i][label].item<double>() : 0;
    EXPECT_NEAR(rows[i].item<double>(), loss, 1e-6);
    total += loss;
    for (std::int64_t c = 0; c < 5; ++c) {
      const double p = std::exp(logits[i][c].item<double>()) / normaliser;
      const double want = counts ? p - (c == label ? 1 : 0) : 0;
      EXPECT_NEAR(logits.grad()[i][c].item<double>(), want, 1e-6);
    }
  }
  EXPECT_NEAR(sum.item<double>(), total, 1e-5);
}

// In fp64 by autograd, in fp32 by the gradient made in place.
TEST(CrossEntropy, SmoothingIsTorchs) {
  const at::Tensor labels = labels_of({2, -100, 0, 4});
  for (const at::ScalarType type : {at::kFloat, at::kDouble}) {
    at::Tensor x = normal("l", {4, 5}).to(type).requires_grad_(true);
    at::Tensor y = x.detach().to(at::kDouble).requires_grad_(true);
    const at::Tensor loss = cross_entropy_sum(x, labels, 0.1);
    const at::Tensor want = at::cross_entropy_loss(
        y, labels, {}, at::Reduction::Sum, kIgnoredLabel, 0.1);
    EXPECT_NEAR(loss.item<double>(), want.item<double>(), 1e-6);
    loss.mul(2).backward();
    want.mul(2).backward();
    EXPECT_LT(x.grad().sub(y.grad()).abs().max().item<double>(), 1e-6);
    EXPECT_EQ(x.grad()[1].abs().max().item<double>(), 0);
    const at::NoGradGuard no_grad;
    EXPECT_EQ(cross_entropy_sum(x, labels, 0.1).item<double>(),
              loss.item<double>());
  }
}

TEST(CrossEntropy, LabelOutOfRangeNamesItAndTheRange) {
  for (const std::int64_t bad : {5, -1}) {
    try {
      cross_entropy_sum(normal("l", {2, 5}), labels_of({0, bad}));
      FAIL() << "no error";
    } catch (const UsageError& e) {
      EXPECT_THAT(e.what(), testing::HasSubstr("label " + std::to_string(bad)));
      EXPECT_THAT(e.what(), testing::HasSubstr("0 to 4"));
    }
  }
}

TEST(SquaredError, ValueAndGradient) {
  at::Tensor x = leaf("x", {5});
  const at::Tensor y = normal("y", {5});
  const at::Tensor sum = squared_error_sum(x, y);
  sum.backward();
  double want = 0;
  for (int i = 0; i < 5; ++i) {
    const double difference = x[i].item<double>() - y[i].item<double>();
    want += difference * difference;
  }
  EXPECT_NEAR(sum.item<double>(), want, 1e-5);
  EXPECT_LT(largest_difference(x.grad(), x.detach().sub(y).mul(2)), 1e-6);
}

}  // namespace
}  // namespace thinwire
