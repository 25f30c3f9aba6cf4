#include "ops/matmul.h"

#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/full.h>
#include <ATen/ops/matmul.h>
#include <ATen/ops/zeros.h>
#include <gtest/gtest.h>

#include "ops/quantise.h"
#include "ops/test_tensors.h"

namespace thinwire {
namespace {

using test::largest_difference;
using test::normal;

struct Shape {
  std::int64_t m, n, k;
};
// Whole tiles, ragged ones in each direction, several in depth, one row.
constexpr Shape kShapes[] = {{64, 64, 64},    {130, 200, 1100}, {1, 96, 32},
                             {37, 63, 2050},  {16, 2, 1024},    {300, 129, 7},
                             {129, 512, 512}, {5, 1, 3}};

at::Tensor exact(const at::Tensor& a, const at::Tensor& b) {
  return at::matmul(a.to(at::kDouble), b.to(at::kDouble));
}

// A sum of k normal products grows like sqrt(i), and each of its k roundings
// errs by 2^-24 of that: some 0.3 * 2^-24 * k, and six deviations of it.
double tolerance(std::int64_t k) { return 2e-6 + 2.5e-7 * k; }

TEST(Matmul, AgreesWithDoublePrecision) {
  for (const auto& [m, n, k] : kShapes) {
    const at::Tensor a = normal("a", {m, k}), nt = normal("w", {n, k}),
                     nn = normal("w", {k, n}), tn = normal("a", {k, m}),
                     bias = normal("b", {n});
    EXPECT_LT(
        largest_difference(matmul_nt(a, nt).to(at::kDouble), exact(a, nt.t())),
        tolerance(k));
    EXPECT_LT(largest_difference(matmul_nt(a, nt, bias).to(at::kDouble),
                                 exact(a, nt.t()).add(bias)),
              tolerance(k));
    EXPECT_LT(
        largest_difference(matmul_nn(a, nn).to(at::kDouble), exact(a, nn)),
        tolerance(k));
    EXPECT_LT(largest_difference(matmul_tn(tn, nn).to(at::kDouble),
                                 exact(tn.t(), nn)),
              tolerance(k));
  }
}

TEST(Matmul, Bf16WeightsRoundTheOtherFactorAndNothingElse) {
  for (const auto& [m, n, k] : kShapes) {
    const at::Tensor a = normal("a", {m, k}),
                     nt = normal("w", {n, k}).to(at::kBFloat16),
                     nn = normal("w", {k, n}).to(at::kBFloat16),
                     rounded = a.to(at::kBFloat16);
    EXPECT_LT(largest_difference(matmul_nt(a, nt).to(at::kDouble),
                                 exact(rounded, nt.t())),
              tolerance(k));
    EXPECT_LT(largest_difference(matmul_nn(a, nn).to(at::kDouble),
                                 exact(rounded, nn)),
              tolerance(k));
  }
}

TEST(Matmul, AThinProductIsAddedInFp32) {
  for (const auto& [m, n, k] : kShapes) {
    for (const auto type : {at::kFloat, at::kBFloat16}) {
      const at::Tensor a = normal("a", {m, k}), rounded = a.to(type),
                       nt = normal("w", {n, k}).to(type),
                       nn = normal("w", {k, n}).to(type),
                       low = normal("l", {m, 5}), nt_low = normal("x", {n, 5}),
                       nn_low = normal("x", {5, n});
      EXPECT_LT(largest_difference(
                    matmul_nt(a, nt, {}, {low, nt_low}).to(at::kDouble),
                    exact(rounded, nt.t()).add(exact(low, nt_low.t()))),
                tolerance(k + 5));
      EXPECT_LT(largest_difference(
                    matmul_nn(a, nn, {}, {low, nn_low}).to(at::kDouble),
                    exact(rounded, nn).add(exact(low, nn_low))),
                tolerance(k + 5));
    }
  }
}

// Whole numbers are exact in bf16; scales act on results alone.
TEST(Matmul, Int8WeightsAreWholeNumbersAndScalesStayOutside) {
  for (const auto& [m, n, k] : kShapes) {
    const at::Tensor a = normal("a", {m, k}), bias = normal("b", {n}),
                     low = normal("l", {m, 5}), nt_low = normal("x", {n, 5}),
                     nn_low = normal("x", {5, n}),
                     rounded = a.to(at::kBFloat16);
    const auto [nt, scale] = quantise_rows(normal("w", {n, k}));
    const auto [nn, unused] = quantise_rows(normal("w", {k, n}));
    // In units of the largest numbers.
    const at::Tensor unit = at::full({n}, 1.0 / 127);
    EXPECT_LT(
        largest_difference(matmul_nt(a, nt, {}, {}, unit).to(at::kDouble),
                           exact(rounded, nt.t()).mul(unit.to(at::kDouble))),
        tolerance(k));
    EXPECT_LT(largest_difference(
                  matmul_nt(a, nt, bias, {low, nt_low}, scale).to(at::kDouble),
                  exact(rounded, dequantise_rows(nt, scale).t())
                      .add(bias)
                      .add(exact(low, nt_low.t()))),
              4 * tolerance(k + 5));
    EXPECT_LT(largest_difference(
                  matmul_nn(a, nn, {}, {low, nn_low}).to(at::kDouble).div(127),
                  exact(rounded, nn).add(exact(low, nn_low)).div(127)),
              tolerance(k + 5));
  }
}

TEST(Matmul, WritesRowsOfALargerMatrixAndReadsThem) {
  const at::Tensor a = normal("a", {40, 96}).slice(1, 0, 64),
                   w = normal("w", {48, 64});
  at::Tensor all = at::zeros({40, 80});
  at::Tensor out = all.slice(1, 16, 64);
  matmul_nt_into(out, a, w);
  EXPECT_LT(largest_difference(out.to(at::kDouble), exact(a, w.t())),
            tolerance(64));
  EXPECT_EQ(all.slice(1, 0, 16).abs().sum().item<double>(), 0);
  EXPECT_EQ(all.slice(1, 64, 80).abs().sum().item<double>(), 0);
}

TEST(Matmul, ThreadsDoNotChangeTheBits) {
  const int threads = at::get_num_threads();
  const at::Tensor a = normal("a", {600, 300}), w = normal("w", {70, 300});
  at::set_num_threads(1);
  const at::Tensor one = matmul_nt(a, w);
  at::set_num_threads(3);
  EXPECT_TRUE(at::equal(one, matmul_nt(a, w)));
  at::set_num_threads(threads);
}

TEST(Matmul, NoRowsGiveNoRows) {
  EXPECT_EQ(matmul_nt(at::empty({0, 8}), normal("w", {4, 8})).sizes(),
            (std::vector<std::int64_t>{0, 4}));
}

}  // namespace
}  // namespace thinwire
