#include "ops/squared_gradient.h"

#include <ATen/Parallel.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros.h>
#include <gtest/gtest.h>

#include "base/error.h"
#include "ops/tap.h"
#include "ops/test_tensors.h"

namespace thinwire {
namespace {

using test::largest_difference;
using test::normal;

std::vector<std::int64_t> offsets_of(const std::vector<std::int64_t>& lengths) {
  std::vector<std::int64_t> out = {0};
  for (const std::int64_t n : lengths) out.push_back(out.back() + n);
  return out;
}

WeightUse product(std::string_view name, std::int64_t m, std::int64_t n,
                  const std::vector<std::int64_t>& lengths) {
  WeightUse use;
  use.offsets = offsets_of(lengths);
  use.x = normal(std::string(name) + ".x", {use.offsets.back(), n});
  use.dy = normal(std::string(name) + ".dy", {use.offsets.back(), m});
  return use;
}

WeightUse look_up(std::string_view name, std::int64_t n,
                  const std::vector<std::int64_t>& lengths,
                  const std::vector<std::int64_t>& rows) {
  WeightUse use;
  use.offsets = offsets_of(lengths);
  use.rows = at::tensor(rows, at::kLong);
  use.dy = normal(std::string(name) + ".dy", {use.offsets.back(), n});
  return use;
}

// One sequence's dense gradient after the other, in double precision.
at::Tensor expected(std::int64_t m, std::int64_t n,
                    const std::vector<WeightUse>& uses,
                    const std::vector<float>& weights) {
  at::Tensor squares = at::zeros({m, n}, at::kDouble);
  for (std::size_t b = 0; b < weights.size(); ++b) {
    at::Tensor grad = at::zeros({m, n}, at::kDouble);
    for (const WeightUse& use : uses) {
      const std::int64_t begin = use.offsets[b];
      const std::int64_t length = use.offsets[b + 1] - begin;
      const at::Tensor dy = use.dy.narrow(0, begin, length).to(at::kDouble);
      if (!use.rows.defined()) {
        grad.add_(dy.t().mm(use.x.narrow(0, begin, length).to(at::kDouble)));
        continue;
      }
      for (std::int64_t t = 0; t < length; ++t) {
        const auto row = use.rows[begin + t].item<std::int64_t>();
        if (row >= 0) grad[row].add_(dy[t]);
      }
    }
    squares.add_(grad.square(), weights[b]);
  }
  return squares;
}

void expect_agrees(std::int64_t m, std::int64_t n,
                   const std::vector<WeightUse>& uses,
                   const std::vector<float>& weights) {
  at::Tensor squares = at::zeros({m, n});
  add_squared_gradients(squares, uses, weights);
  const at::Tensor want = expected(m, n, uses, weights);
  EXPECT_LT(largest_difference(squares.to(at::kDouble), want),
            1e-5 * want.max().item<double>());
  add_squared_gradients(squares, uses, weights);  // adds
  EXPECT_LT(largest_difference(squares.to(at::kDouble), want.mul(2)),
            2e-5 * want.max().item<double>());
}

TEST(SquaredGradient, OfProductsAgreesWithDenseGradients) {
  // Whole tiles, edges of tiles, and rows and columns of one.
  for (const auto& [m, n] : std::vector<std::pair<std::int64_t, std::int64_t>>{
           {64, 256}, {130, 300}, {1, 7}, {3, 1}, {64, 512}}) {
    SCOPED_TRACE(fmt::format("{} x {}", m, n));
    expect_agrees(m, n, {product("p", m, n, {5, 1, 17, 40})}, {1, 0.25f, 0, 3});
    expect_agrees(m, n, {product("one", m, n, {1, 1, 1})}, {1, 2, 0.5f});
    WeightUse columns = product("c", m, n, {5, 0, 17});  // dy by columns
    columns.dy = columns.dy.t().contiguous().t();
    expect_agrees(m, n, {columns, product("p", m, n, {2, 3, 4})}, {1, 2, 3});
  }
}

// The gradient as such, of all sequences together.
TEST(SquaredGradient, UnsquaredItIsTheSumOfAll) {
  const std::vector<WeightUse> uses = {
      product("head", 150, 300, {3, 2, 6}),
      look_up("decoder", 300, {3, 2, 6},
              {0, 149, 63, 64, 64, -1, 1, 1, 1, 0, 2}),
      look_up("encoder", 300, {2, 4, 1}, {149, 149, 70, 64, 3, 64, 128})};
  for (const auto& some : {std::vector{uses[0]}, std::vector{uses[1]}, uses}) {
    at::Tensor want = at::zeros({150, 300}, at::kDouble);
    for (const WeightUse& use : some) {
      const at::Tensor dy = use.dy.to(at::kDouble);
      if (use.x.defined()) want.add_(dy.t().mm(use.x.to(at::kDouble)));
      if (!use.rows.defined()) continue;
      for (std::int64_t t = 0; t < use.rows.numel(); ++t) {
        const auto row = use.rows[t].item<std::int64_t>();
        if (row >= 0) want[row].add_(dy[t]);
      }
    }
    at::Tensor sums = at::zeros({150, 300});
    for (const int times : {1, 2}) {  // adds
      add_gradients(sums, some);
      EXPECT_LT(largest_difference(sums.to(at::kDouble), want.mul(times)),
                1e-5 * want.abs().max().item<double>());
    }
  }
}

TEST(SquaredGradient, OfLookUpsAgreesAndTouchesNoOtherRow) {
  const WeightUse use = look_up("e", 20, {4, 3, 1}, {2, 5, 2, 2, 5, -1, 0, 2});
  expect_agrees(9, 20, {use}, {1, 0.5f, 2});
  at::Tensor squares = at::zeros({9, 20});
  add_squared_gradients(squares, {&use, 1}, std::vector<float>{1, 1, 1});
  for (const std::int64_t row : {1, 3, 4, 6, 7, 8}) {
    EXPECT_EQ(squares[row].abs().max().item<float>(), 0) << row;
  }
}

// Tied embeddings: look-ups in two stacks and a product, each sequence's parts
// summed before they are squared.
TEST(SquaredGradient, OfTiedUsesIsTheSquareOfTheSum) {
  std::vector<WeightUse> uses = {
      product("head", 150, 40, {3, 2, 6}),
      look_up("decoder", 40, {3, 2, 6}, {0, 149, 63, 64, 64, 1, 1, 1, 1, 0, 2}),
      look_up("encoder", 40, {2, 4, 1}, {149, 149, 70, 64, 3, 64, 128})};
  expect_agrees(150, 40, uses, {1, 0.5f, 2});
  uses.push_back(product("twice", 150, 40, {2, 1, 9}));
  expect_agrees(150, 40, uses, {1, 0.5f, 2});
}

TEST(SquaredGradient, HasTheSameBitsForAnyNumberOfThreads) {
  const std::vector<WeightUse> uses = {
      product("head", 300, 70, {30, 21}),
      look_up("words", 70, {2, 3}, {299, 0, 17, 17, 250})};
  const std::vector<float> weights = {1, 0.5f};
  const int before = at::get_num_threads();
  std::vector<at::Tensor> squares, sums;
  for (const int threads : {1, 2, 3}) {
    at::set_num_threads(threads);
    squares.push_back(at::zeros({300, 70}));
    add_squared_gradients(squares.back(), uses, weights);
    sums.push_back(at::zeros({300, 70}));
    add_gradients(sums.back(), uses);
  }
  at::set_num_threads(before);
  for (const std::size_t i : {1u, 2u}) {
    EXPECT_TRUE(squares[0].equal(squares[i]));
    EXPECT_TRUE(sums[0].equal(sums[i]));
  }
}

TEST(SquaredGradient, RefusesWhatDoesNotFit) {
  at::Tensor squares = at::zeros({4, 6});
  const std::vector<float> weights = {1, 1};
  const std::vector<WeightUse> uses = {
      product("m", 5, 6, {1, 2}), product("n", 4, 7, {1, 2}),
      product("b", 4, 6, {3}), look_up("row", 6, {1, 1}, {0, 4})};
  for (const WeightUse& use : uses) {
    EXPECT_THROW(add_squared_gradients(squares, {&use, 1}, weights),
                 InternalError);
  }
  for (const std::size_t i : {0u, 1u, 3u}) {
    EXPECT_THROW(add_gradients(squares, {&uses[i], 1}), InternalError);
  }
}

TEST(SquaredGradient, SumsOfSequences) {
  const at::Tensor rows = normal("rows", {6, 5});
  const at::Tensor sums =
      sequence_sums(rows, std::vector<std::int64_t>{0, 1, 4, 6});
  EXPECT_TRUE(sums[0].equal(rows[0]));
  EXPECT_TRUE(sums[1].equal(rows[1].add(rows[2]).add(rows[3])));
  EXPECT_TRUE(sums[2].equal(rows[4].add(rows[5])));
}

TEST(Tap, SeesTheGradientAndPassesItOn) {
  at::Tensor leaf = at::zeros({}).requires_grad_(true);
  at::Tensor x = test::leaf("x", {3, 4});
  at::Tensor seen;
  const auto see = [&](const at::Tensor& grad) { seen = grad; };
  const at::Tensor g = normal("g", {3, 4});
  const at::Tensor y = tap_gradient(x.mul(2), leaf, see);
  EXPECT_TRUE(y.equal(x.mul(2)));
  y.mul(g).sum().backward();
  EXPECT_TRUE(seen.equal(g));
  EXPECT_TRUE(x.grad().equal(g.mul(2)));
  EXPECT_FALSE(leaf.grad().defined());

  // Where nothing below asks for a gradient, it is seen all the same.
  seen.reset();
  tap_gradient(x.detach(), leaf, see).mul(g).sum().backward();
  EXPECT_TRUE(seen.equal(g));
}

}  // namespace
}  // namespace thinwire
