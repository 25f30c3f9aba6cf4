#include "ops/quantise.h"

#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros.h>
#include <gtest/gtest.h>

#include <array>
#include <limits>
#include <vector>

#include "base/error.h"
#include "ops/linear.h"
#include "ops/reference.h"
#include "ops/test_tensors.h"

namespace thinwire {
namespace {

using test::largest_difference;
using test::normal;

TEST(Quantise, TheLargestOfARowIs127AndTheRestTheNearest) {
  // In units of the scale: ties go to even.
  const at::Tensor w = at::tensor({127.f, 0.5f, 1.5f, -2.5f, -3.4f,  //
                                   -254.f, 1.f, 3.f, 2.f, 0.f,       //
                                   0.f, 0.f, 0.f, 0.f, 0.f})
                           .view({3, 5});
  const auto [q, scale] = quantise_rows(w);
  EXPECT_TRUE(q.equal(at::tensor({127, 0, 2, -2, -3,  //
                                  -127, 0, 2, 1, 0,   //
                                  0, 0, 0, 0, 0},
                                 at::kChar)
                          .view({3, 5})));
  EXPECT_TRUE(scale.equal(at::tensor({1.f, 2.f, 0.f})));
}

// Against plain operations.
TEST(Quantise, AgreesWithItsDefinition) {
  for (const auto type : {at::kFloat, at::kBFloat16}) {
    const at::Tensor w = normal("w", {37, 130}).to(type),
                     wide = w.to(at::kFloat);
    const auto [q, scale] = quantise_rows(w);
    EXPECT_TRUE(scale.equal(wide.abs().amax(1).div(127)));
    EXPECT_TRUE(q.equal(wide.div(scale.unsqueeze(1)).round().to(at::kChar)));
    EXPECT_LE(largest_difference(dequantise_rows(q, scale), wide),
              0.5001 * scale.max().item<double>());
  }
}

TEST(Quantise, TinyAndEndlessNumbers) {
  constexpr float kTiny = std::numeric_limits<float>::denorm_min();
  const auto [q, scale] =
      quantise_rows(at::tensor({kTiny, -kTiny}).view({1, 2}));
  EXPECT_LE(q.abs().max().item<int>(), 127);
  for (const float bad : {std::numeric_limits<float>::infinity(),
                          std::numeric_limits<float>::quiet_NaN()}) {
    EXPECT_THROW(quantise_rows(at::tensor({1.f, bad}).view({1, 2})),
                 UsageError);
  }
}

TEST(Quantise, ItsScalesAreOfOutputsHoweverTheMatrixLies) {
  const at::Tensor w = normal("w", {37, 130});
  const auto [q, scale] = quantise_rows(w);
  const auto [turned, same] = quantise_rows(w.t(), WeightAxes::kInOut);
  EXPECT_TRUE(turned.is_contiguous());
  EXPECT_TRUE(turned.t().equal(q));
  EXPECT_TRUE(same.equal(scale));
  EXPECT_TRUE(dequantise_rows(turned, scale, WeightAxes::kInOut)
                  .t()
                  .equal(dequantise_rows(q, scale)));
}

// Outputs and every gradient against the plain twin, odd sizes too.
TEST(Quantise, ALinearLayerOfInt8AgreesWithItsTwin) {
  for (const auto& [rows, out, in] :
       {std::array<std::int64_t, 3>{40, 96, 130}, {7, 33, 65}, {1, 8, 6}}) {
    for (const WeightAxes axes : {WeightAxes::kOutIn, WeightAxes::kInOut}) {
      const at::Tensor w = normal("w", {out, in});
      const auto [q, scale] =
          quantise_rows(axes == WeightAxes::kOutIn ? w : w.t(), axes);
      std::vector<at::Tensor> results[2];
      for (const bool plain : {false, true}) {
        const UseReferenceOps reference(plain);
        std::vector<at::Tensor> leaves = {
            normal("x", {rows, in}), normal("b", {out}), normal("a", {3, in}),
            normal("c", {out, 3})};
        for (at::Tensor& leaf : leaves) leaf.requires_grad_(true);
        const at::Tensor y = linear(leaves[0], q, leaves[1],
                                    {leaves[2], leaves[3], 0.5}, scale, axes);
        y.mul(normal("dy", {rows, out})).sum().backward();
        results[plain] = {y.detach()};
        for (const at::Tensor& leaf : leaves) {
          results[plain].push_back(leaf.grad());
        }
      }
      for (std::size_t i = 0; i < results[0].size(); ++i) {
        EXPECT_LT(largest_difference(results[0][i], results[1][i]),
                  1e-5 * results[1][i].abs().max().item<double>())
            << i << ": " << rows << ' ' << out << ' ' << in;
      }
    }
  }
}

}  // namespace
}  // namespace thinwire
