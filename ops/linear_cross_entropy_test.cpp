#include "ops/linear_cross_entropy.h"

#include <ATen/Parallel.h>
#include <ATen/core/Reduction.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/cross_entropy_loss.h>
#include <ATen/ops/linear.h>
#include <ATen/ops/zeros_like.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>

#include "base/error.h"
#include "ops/loss.h"
#include "ops/test_tensors.h"
#include "ops/vector_exp.h"

namespace thinwire {
namespace {

using test::copy_leaf;
using test::largest_difference;
using test::leaf;
using test::normal;

// Label i is a function of i; every `gap`th row is ignored (0: none).
at::Tensor some_labels(std::int64_t n, std::int64_t classes, std::int64_t gap) {
  at::Tensor out = at::empty({n}, at::TensorOptions().dtype(at::kLong));
  for (std::int64_t i = 0; i < n; ++i) {
    out[i] = gap > 0 && i % gap == 0 ? -100 : (i * 7919 + 3) % classes;
  }
  return out;
}

at::Tensor twin(const at::Tensor& hidden, const at::Tensor& weight,
                const at::Tensor& labels, double scale, double smoothing = 0) {
  return cross_entropy_sum(at::linear(hidden.mul(scale), weight.to(at::kFloat)),
                           labels, smoothing);
}

struct Case {
  std::int64_t n, d, vocabulary, gap;
  double scale, spread;  // spread: of the weights, hence of the logits
};
// Odd counts everywhere; fewer rows than lanes; several blocks of rows; several
// slices of the vocabulary; logits far apart.
const Case kCases[] = {
    {1, 8, 5, 0, 1, 1},         {7, 33, 70, 3, 0.5, 1},
    {40, 64, 4500, 0, 1, 1},    {150, 48, 1000, 5, 0.3, 0.1},
    {33, 512, 2100, 4, 1, 0.2}, {300, 16, 9000, 2, 0.25, 1},
    {20, 2, 9001, 0, 1, 20},
};

void expect_twin(double smoothing) {
  for (const Case& c : kCases) {
    SCOPED_TRACE(testing::Message()
                 << c.n << " " << c.d << " " << c.vocabulary);
    at::Tensor h = leaf("h", {c.n, c.d});
    at::Tensor w =
        normal("w", {c.vocabulary, c.d}).mul(c.spread).requires_grad_(true);
    at::Tensor h2 = copy_leaf(h), w2 = copy_leaf(w);
    const at::Tensor labels = some_labels(c.n, c.vocabulary, c.gap);
    const at::Tensor loss = linear_cross_entropy(
        h, w, labels, {.scale = c.scale, .smoothing = smoothing});
    const at::Tensor want = twin(h2, w2, labels, c.scale, smoothing);
    EXPECT_NEAR(loss.item<double>(), want.item<double>(),
                2e-6 * std::abs(want.item<double>()));
    loss.mul(0.5).backward();
    want.mul(0.5).backward();
    const double hs = 1 + h2.grad().abs().max().item<double>();
    const double ws = 1 + w2.grad().abs().max().item<double>();
    EXPECT_LT(largest_difference(h.grad(), h2.grad()) / hs, 2e-5);
    EXPECT_LT(largest_difference(w.grad(), w2.grad()) / ws, 2e-5);
  }
}

TEST(LinearCrossEntropy, LossAndGradientsMatchTheTwin) { expect_twin(0); }
TEST(LinearCrossEntropy, SmoothedTheyMatchTheTwin) { expect_twin(0.1); }

// fp64, where differences tell: loss and gradients against torch's own, and
// these against differences of the loss.
TEST(LinearCrossEntropy, SmoothingIsTorchs) {
  constexpr double kSmoothing = 0.3;
  at::Tensor h = leaf("h", {9, 6});
  at::Tensor w = leaf("w", {40, 6});
  const at::Tensor labels = some_labels(9, 40, 4);
  const auto torchs = [&](const at::Tensor& hidden, const at::Tensor& weight) {
    return at::cross_entropy_loss(at::linear(hidden, weight), labels, {},
                                  at::Reduction::Sum, -100, kSmoothing);
  };
  const at::Tensor loss =
      linear_cross_entropy(h, w, labels, {.smoothing = kSmoothing});
  loss.backward();
  at::Tensor h2 = h.detach().to(at::kDouble).requires_grad_(true);
  at::Tensor w2 = w.detach().to(at::kDouble).requires_grad_(true);
  const at::Tensor want = torchs(h2, w2);
  want.backward();
  EXPECT_NEAR(loss.item<double>(), want.item<double>(),
              1e-6 * want.item<double>());
  EXPECT_LT(h.grad().sub(h2.grad()).abs().max().item<double>(), 1e-5);
  EXPECT_LT(w.grad().sub(w2.grad()).abs().max().item<double>(), 1e-5);

  const at::NoGradGuard no_grad;
  constexpr double kStep = 1e-4;
  for (const std::int64_t v : {0, 3, 39}) {
    at::Tensor up = w2.detach().clone(), down = w2.detach().clone();
    up[v][2] += kStep;
    down[v][2] -= kStep;
    const double slope =
        torchs(h2, up).sub(torchs(h2, down)).item<double>() / (2 * kStep);
    EXPECT_NEAR(w.grad()[v][2].item<double>(), slope, 1e-5) << v;
  }
  for (const std::int64_t i : {1, 4, 8}) {
    at::Tensor up = h2.detach().clone(), down = h2.detach().clone();
    up[i][5] += kStep;
    down[i][5] -= kStep;
    const double slope =
        torchs(up, w2).sub(torchs(down, w2)).item<double>() / (2 * kStep);
    EXPECT_NEAR(h.grad()[i][5].item<double>(), slope, 1e-5) << i;
  }
}

TEST(LinearCrossEntropy, FrozenMatrixGetsNoGradientAndGivesTheSame) {
  at::Tensor h = leaf("h", {30, 24}), h2 = copy_leaf(h);
  const at::Tensor w = normal("w", {5000, 24});
  const at::Tensor labels = some_labels(30, 5000, 4);
  linear_cross_entropy(h, w, labels).backward();
  linear_cross_entropy(h2, copy_leaf(w), labels).backward();
  EXPECT_EQ(largest_difference(h.grad(), h2.grad()), 0);
  EXPECT_FALSE(w.grad().defined());
  EXPECT_EQ(h.grad()[4].abs().max().item<float>(), 0);  // ignored
}

TEST(LinearCrossEntropy, FrozenHiddenStatesLeaveTheMatrixAlone) {
  at::Tensor w = leaf("w", {900, 24}), w2 = copy_leaf(w);
  const at::Tensor h = normal("h", {30, 24});
  const at::Tensor labels = some_labels(30, 900, 4);
  linear_cross_entropy(h, w, labels).backward();
  twin(h, w2, labels, 1).backward();
  EXPECT_LT(largest_difference(w.grad(), w2.grad()), 2e-5);
}

// Column 3 of the matrix trains, its gradient made with the loss or later.
void expect_sampled(bool late) {
  at::Tensor h = leaf("h", {200, 16}), h2 = copy_leaf(h);
  const at::Tensor w = normal("w", {700, 16});
  at::Tensor w2 = copy_leaf(w);
  const at::Tensor labels = some_labels(200, 700, 3);
  at::Tensor values = normal("v", {700}).requires_grad_(true);
  LinearCrossEntropyOptions options{
      .scale = 0.5, .smoothing = 0.1, .values = values};
  int calls = 0;  // the entries: column 3
  std::vector<std::int64_t> rows;
  options.late = late;
  options.sampled = [&](at::Tensor& grad, const LossRows& block) {
    EXPECT_FALSE(at::GradMode::is_enabled());
    grad.add_(block.dy.t().matmul(block.x.select(1, 3)));
    rows.insert(rows.end(), block.rows.begin(), block.rows.end());
    ++calls;
  };
  const at::Tensor loss = linear_cross_entropy(h, w, labels, options);
  EXPECT_EQ(calls, late ? 0 : 2);
  loss.mul(3).backward();
  twin(h2, w2, labels, 0.5, 0.1).mul(3).backward();
  EXPECT_EQ(calls, 2);
  EXPECT_LT(largest_difference(values.grad(), w2.grad().select(1, 3)), 5e-5);
  EXPECT_LT(largest_difference(h.grad(), h2.grad()), 5e-5);
  std::vector<std::int64_t> labelled;
  for (std::int64_t i = 0; i < 200; ++i) {
    if (labels[i].item<std::int64_t>() != -100) labelled.push_back(i);
  }
  EXPECT_EQ(rows, labelled);
}

TEST(LinearCrossEntropy, SampledEntriesGetTheirPartOfTheGradient) {
  expect_sampled(/*late=*/false);
  expect_sampled(/*late=*/true);
}

void expect_bf16_twin(double smoothing) {
  for (const std::int64_t d : {64, 65}) {  // pairs, and no pairs
    at::Tensor h = leaf("h", {50, d}), h2 = copy_leaf(h);
    const at::Tensor w = normal("w", {3000, d}).to(at::kBFloat16);
    const at::Tensor labels = some_labels(50, 3000, 6);
    const at::Tensor loss =
        linear_cross_entropy(h, w, labels, {.smoothing = smoothing});
    const at::Tensor want =
        twin(h2.to(at::kBFloat16).to(at::kFloat), w, labels, 1, smoothing);
    EXPECT_NEAR(loss.item<double>(), want.item<double>(),
                2e-6 * want.item<double>());
    loss.backward();
    want.backward();
    // 2^-9 of each probability, and of the twin's own rounding of h's gradient.
    const double scale = h2.grad().abs().max().item<double>();
    EXPECT_LT(largest_difference(h.grad(), h2.grad()), 8e-3 * scale);
  }
}

TEST(LinearCrossEntropy, Bf16MatrixRoundsOnlyTheFactors) {
  expect_bf16_twin(0);
  expect_bf16_twin(0.1);
}

TEST(LinearCrossEntropy, Bf16MatrixMayTrain) {
  at::Tensor w = normal("w", {300, 16}).to(at::kBFloat16).requires_grad_(true);
  at::Tensor w2 = copy_leaf(w);
  const at::Tensor h = normal("h", {20, 16}).to(at::kBFloat16).to(at::kFloat);
  const at::Tensor labels = some_labels(20, 300, 4);
  linear_cross_entropy(h, w, labels, {.smoothing = 0.1}).backward();
  twin(h, w2, labels, 1, 0.1).backward();
  const double scale = w2.grad().abs().max().item<double>();
  EXPECT_LT(largest_difference(w.grad(), w2.grad()), 8e-3 * scale);
}

// A gradient that all but vanishes: nothing cancels against the label's own.
TEST(LinearCrossEntropy, WellPredictedTokensKeepTheirDigits) {
  at::Tensor w = normal("w", {64, 32}).to(at::kBFloat16);
  at::Tensor h = w.to(at::kFloat).narrow(0, 0, 4).clone().requires_grad_(true);
  const at::Tensor labels = some_labels(4, 64, 0);
  for (std::int64_t i = 0; i < 4; ++i) labels[i] = i;
  linear_cross_entropy(h, w, labels).backward();
  at::Tensor h2 = h.detach().to(at::kDouble).requires_grad_(true);
  cross_entropy_sum(at::linear(h2, w.to(at::kDouble)), labels).backward();
  const double scale = h2.grad().abs().max().item<double>();
  EXPECT_LT(scale, 1e-2);
  EXPECT_LT(h2.grad().sub(h.grad()).abs().max().item<double>(), 8e-3 * scale);
}

TEST(LinearCrossEntropy, RowsGiveLossAndTheFirstLikeliestToken) {
  const at::Tensor h = normal("h", {140, 20});
  at::Tensor w = normal("w", {3000, 20});
  w.select(0, 2999).copy_(w.select(0, 1));  // equal logits
  const at::Tensor labels = some_labels(140, 3000, 7);
  const TokenLosses rows = linear_cross_entropy_rows(h, w, labels, 0.7);
  const at::Tensor logits = at::linear(h.mul(0.7), w);
  const at::Tensor want = cross_entropy_rows(logits, labels);
  EXPECT_LT(largest_difference(rows.loss, want), 1e-5);
  for (std::int64_t i = 0; i < 140; ++i) {
    const auto best = rows.best[i].item<std::int64_t>();
    if (i % 7 == 0) {
      EXPECT_EQ(best, -1);
      EXPECT_EQ(rows.loss[i].item<float>(), 0);
      continue;
    }
    EXPECT_NE(best, 2999);
    EXPECT_GE(logits[i][best].item<float>(),
              logits[i].max().item<float>() - 1e-5);
  }
}

TEST(LinearCrossEntropy, SameBitsForAnyCountOfThreads) {
  const at::Tensor h = normal("h", {100, 32}), w = normal("w", {20000, 32});
  const at::Tensor labels = some_labels(100, 20000, 9);
  const int before = at::get_num_threads();
  std::vector<at::Tensor> losses, hidden, weights;
  for (const int threads : {1, 2, 3}) {
    at::set_num_threads(threads);
    at::Tensor h2 = copy_leaf(h), w2 = copy_leaf(w);
    losses.push_back(linear_cross_entropy(h2, w2, labels, {.smoothing = 0.1}));
    losses.back().backward();
    hidden.push_back(h2.grad());
    weights.push_back(w2.grad());
  }
  at::set_num_threads(before);
  for (std::size_t i = 1; i < 3; ++i) {
    EXPECT_TRUE(losses[i].equal(losses[0]));
    EXPECT_TRUE(hidden[i].equal(hidden[0]));
    EXPECT_TRUE(weights[i].equal(weights[0]));
  }
}

TEST(LinearCrossEntropy, AllIgnoredIsNothing) {
  at::Tensor h = leaf("h", {3, 8}), w = leaf("w", {20, 8});
  const at::Tensor labels = some_labels(3, 20, 1);
  const at::Tensor loss = linear_cross_entropy(h, w, labels);
  loss.backward();
  EXPECT_EQ(loss.item<float>(), 0);
  EXPECT_EQ(h.grad().abs().max().item<float>(), 0);
  EXPECT_EQ(w.grad().abs().max().item<float>(), 0);
}

TEST(LinearCrossEntropy, WhatIsNotFiniteStaysSo) {
  for (const float bad : {NAN, INFINITY}) {
    at::Tensor h = normal("h", {3, 8});
    h[1][2] = bad;
    const at::Tensor w = normal("w", {700, 8});
    const at::Tensor loss = linear_cross_entropy(h, w, some_labels(3, 700, 0));
    EXPECT_FALSE(std::isfinite(loss.item<float>()));
  }
}

TEST(LinearCrossEntropy, LabelOutOfRangeNamesItAndTheRange) {
  at::Tensor labels = some_labels(2, 5, 0);
  labels[1] = 5;
  try {
    linear_cross_entropy(normal("h", {2, 4}), normal("w", {5, 4}), labels);
    FAIL() << "no error";
  } catch (const UsageError& e) {
    EXPECT_THAT(e.what(), testing::HasSubstr("label 5 in row 1"));
    EXPECT_THAT(e.what(), testing::HasSubstr("0 to 4"));
  }
}

TEST(VectorExp, WithinTwoUlpOfTheLibrary) {
  for (float x = 0; x > -110; x -= 0.0371f) {
    Floats lanes = Floats{} + x;
    exp_lanes(lanes);
    const double want = std::exp(static_cast<double>(x));
    if (x < -86.6f) {
      EXPECT_EQ(lanes[0], 0) << x;
    } else {
      EXPECT_NEAR(lanes[0], want, 2.5e-7 * want) << x;
    }
  }
  Floats one = {};
  exp_lanes(one);
  EXPECT_EQ(one[0], 1.0f);
}

}  // namespace
}  // namespace thinwire
