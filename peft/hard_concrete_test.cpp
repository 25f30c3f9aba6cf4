#include "peft/hard_concrete.h"

#include <ATen/ops/arange.h>
#include <ATen/ops/full.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros.h>
#include <gtest/gtest.h>

#include <cmath>
#include <optional>

#include "base/random.h"
#include "tests/harness/golden.h"

namespace thinwire {
namespace {

using Of = GateNoise::Of;

TEST(HardConcrete, NoiseIsAFunctionOfSeedStepAndPlace) {
  const GateNoise noise{.seed = 3, .step = 7, .tensor = 2};
  const at::Tensor u = noise.draw(0, 1000, Of::kNumbers);
  EXPECT_TRUE(u.equal(noise.draw(0, 1000, Of::kNumbers)));
  EXPECT_GE(u.min().item<float>(), 1e-4f);
  EXPECT_LE(u.max().item<float>(), 1 - 1e-4f);
  // 1000 of variance 1 / 12.
  EXPECT_NEAR(u.mean().item<double>(), 0.5, 4 / std::sqrt(12e3));
  EXPECT_NEAR(u.var().item<double>(), 1.0 / 12, 0.015);
  GateNoise other = noise;
  for (std::uint64_t GateNoise::*field : {&GateNoise::seed, &GateNoise::step}) {
    other = noise;
    ++(other.*field);
    EXPECT_FALSE(u.equal(other.draw(0, 1000, Of::kNumbers)));
  }
  other = noise;
  ++other.tensor;
  EXPECT_FALSE(u.equal(other.draw(0, 1000, Of::kNumbers)));
  EXPECT_FALSE(u.equal(noise.draw(0, 1000, Of::kTensor)));
  // Whoever draws a part of it draws the same.
  const at::Tensor all = noise.draw(0, 40000, Of::kNumbers);
  EXPECT_TRUE(all.narrow(0, 0, 1000).equal(u));
  EXPECT_TRUE(
      all.narrow(0, 32768, 1000).equal(noise.draw(32768, 1000, Of::kNumbers)));
  EXPECT_FALSE(all.narrow(0, 16384, 1000).equal(u));
}

TEST(HardConcrete, GatesAreClosedOpenOrBetween) {
  const at::Tensor a = at::tensor({-200.f, -0.1f, 0.f, 1.f, 5.f, 200.f});
  const at::Tensor z = gate(a, {}), slope = gate_slope(a, {});
  const auto at = [](const at::Tensor& t, int i) { return t[i].item<float>(); };
  const double s = 1 / (1 + std::exp(-1.0));
  EXPECT_EQ(at(z, 0), 0);
  EXPECT_EQ(at(z, 1), 0);
  EXPECT_NEAR(at(z, 3), 3 * s - 1.5, 1e-6);
  EXPECT_EQ(at(z, 4), 1);
  EXPECT_EQ(at(z, 5), 1);
  EXPECT_NEAR(at(slope, 3), 3 * s * (1 - s), 1e-6);
  for (const int i : {0, 1, 4, 5}) EXPECT_EQ(at(slope, i), 0) << i;
  // The most and the least noise there is: log odds 9.21.
  for (const float u : {1e-4f, 0.3f, 1 - 1e-4f}) {
    const at::Tensor noisy = gate(a, at::full({6}, u));
    for (int i = 0; i < 6; ++i) {
      const double logit = std::log(u) - std::log1p(-u) + at(a, i);
      const double want =
          std::min(1.0, std::max(0.0, 3 / (1 + std::exp(-logit)) - 1.5));
      EXPECT_NEAR(at(noisy, i), want, 1e-5) << u << " " << i;
    }
  }
}

TEST(HardConcrete, ThePenaltyIsTheExpectedNumberOfOpenGates) {
  const at::Tensor a = at::tensor({0.f, 1.f, -2.f, 60.f, -60.f});
  at::Tensor grad = at::full({5}, 2.f);
  double want = 0;
  for (int i = 0; i < 5; ++i) want += 1 / (1 + std::exp(-a[i].item<double>()));
  EXPECT_NEAR(add_open_penalty(a, 0.5, 4, grad), 0.5 * want, 1e-6);
  for (int i = 0; i < 5; ++i) {
    const double p = 1 / (1 + std::exp(-a[i].item<double>()));
    EXPECT_NEAR(grad[i].item<double>(), 2 + 0.5 * 4 * p * (1 - p), 1e-6) << i;
  }
}

// As often as its chance says, a gate with noise is open.
TEST(HardConcrete, ItsChanceToBeOpenIsSo) {
  const GateNoise noise{.seed = 1};
  for (const double a : {-1.0, 0.5}) {
    const at::Tensor z = gate(at::full({40000}, a, at::kFloat),
                              noise.draw(0, 40000, Of::kNumbers));
    const double open = z.gt(0).to(at::kDouble).mean().item<double>();
    EXPECT_NEAR(open, 1 / (1 + std::exp(-a)), 4 * 0.5 / 200);
  }
}

TEST(HardConcrete, WithoutChangeAndWhereClosedItIsTheRest) {
  const at::Tensor rest = at::arange(6, at::kFloat).view({2, 3});
  const at::Tensor open = at::full({2, 3}, 0.3f);
  EXPECT_TRUE(gated({rest, rest, open, {}}, GateNoise{}).equal(rest));
  EXPECT_TRUE(
      gated({rest.add(1), rest, open, at::full({1}, -1.f)}, std::nullopt)
          .equal(rest));
}

// Larger than a piece: value, and gradients of every number and of the gate
// that they share, are those of the formula, on any number of threads.
TEST(HardConcrete, GatedTensorsAgreeWithTheFormula) {
  constexpr std::int64_t kRows = 300, kColumns = 150;
  const auto random = [](const char* name, float std) {
    at::Tensor t = at::zeros({kRows, kColumns});
    fill_normal(t.mutable_data_ptr<float>(), t.numel(), 1, name, std);
    return t;
  };
  const at::Tensor rest = random("rest", 1), dy = random("dy", 1);
  const auto leaf = [](const at::Tensor& t) {
    return t.detach().clone().set_requires_grad(true);
  };
  const at::Tensor values = random("values", 1), gates = random("gates", 2);
  const at::Tensor shared = at::full({1}, 0.4f);
  const GateNoise noise{.seed = 3, .step = 5, .tensor = 1};
  for (const bool noisy : {false, true}) {
    const auto stretched = [&](const at::Tensor& a, Of of) {
      at::Tensor logit = a;
      if (noisy) {
        const at::Tensor u = noise.draw(0, a.numel(), of).view(a.sizes());
        logit = u.log().sub(u.neg().add(1).log()).add(a);
      }
      return logit.sigmoid().mul(3).sub(1.5).clamp(0, 1);
    };
    const at::Tensor v = leaf(values), a = leaf(gates), s = leaf(shared);
    const at::Tensor want = stretched(a, Of::kNumbers)
                                .mul(stretched(s, Of::kTensor))
                                .mul(v.sub(rest))
                                .add(rest);
    want.mul(dy).sum().backward();
    const at::Tensor v2 = leaf(values), a2 = leaf(gates), s2 = leaf(shared);
    const at::Tensor found =
        gated({v2, rest, a2, s2}, noisy ? std::optional(noise) : std::nullopt);
    // Transposed, as products leave it.
    found.mul(dy.t().contiguous().t()).sum().backward();
    EXPECT_TRUE(golden_close("value", found, want, 1e-6));
    EXPECT_TRUE(golden_close("values", v2.grad(), v.grad(), 1e-6));
    EXPECT_TRUE(golden_close("gates", a2.grad(), a.grad(), 1e-5));
    EXPECT_TRUE(golden_close("shared", s2.grad(), s.grad(), 1e-4));
  }
}

}  // namespace
}  // namespace thinwire
