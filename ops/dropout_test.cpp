#include "ops/dropout.h"

#include <ATen/ops/ones.h>
#include <gtest/gtest.h>

#include <cmath>

#include "base/error.h"
#include "base/random.h"
#include "ops/test_tensors.h"

namespace thinwire {
namespace {

using test::largest_difference;
using test::leaf;
using test::normal;

const DropoutKey kKey{.seed = 3, .step = 11, .site = dropout_site("x")};

// One number, from base/random.h alone.
bool kept(double p, const DropoutKey& key, std::uint64_t sample,
          std::uint32_t position, std::uint32_t feature,
          std::uint32_t head = 0) {
  PhiloxKey k = make_key(key.seed, Purpose::kDropout, key.step);
  const std::uint64_t high = mix64(sample >> 32);
  k.k0 ^= static_cast<std::uint32_t>(high);
  k.k1 ^= static_cast<std::uint32_t>(high >> 32);
  const PhiloxBlock block = philox(
      k, {feature / 32 * 8 + feature % 8, position,
          static_cast<std::uint32_t>(sample), key.site ^ (head * 0x9E3779B1u)});
  return uniform01(block[feature / 8 % 4]) >= p;
}

TEST(Dropout, EveryNumberIsTheScalarFunction) {
  const std::vector<std::uint64_t> samples{5, (std::uint64_t{9} << 32) + 5};
  const Layout l = make_layout({2, 3}, samples, {0, 7, 0, 1, 2});
  for (const std::int64_t d : {1, 31, 64, 100, 129}) {
    for (const double p : {0.1, 0.5, 0.999}) {
      const at::Tensor x = normal("x", {5, d});
      const at::Tensor y = dropout(x, p, kKey, l);
      const auto scale = static_cast<float>(1 / (1 - p));
      for (std::int64_t t = 0; t < 5; ++t) {
        for (std::int64_t f = 0; f < d; ++f) {
          const auto position =
              static_cast<std::uint32_t>(l.positions[t].item<std::int64_t>());
          const bool keep = kept(p, kKey, samples[t < 2 ? 0 : 1], position,
                                 static_cast<std::uint32_t>(f));
          const float want = keep ? x[t][f].item<float>() * scale : 0.0f;
          ASSERT_EQ(y[t][f].item<float>(), want) << d << " " << t << " " << f;
        }
      }
    }
  }
}

TEST(Dropout, PackedEqualsPaddedInAnyOrder) {
  const Layout packed = make_layout({2, 4, 3}, {10, 11, 12});
  const Layout other = make_layout({3, 2}, {12, 10});
  const at::Tensor a = dropout(at::ones({9, 70}), 0.3, kKey, packed);
  const at::Tensor b = dropout(at::ones({5, 70}), 0.3, kKey, other);
  EXPECT_EQ(largest_difference(a.narrow(0, 6, 3), b.narrow(0, 0, 3)), 0);
  EXPECT_EQ(largest_difference(a.narrow(0, 0, 2), b.narrow(0, 3, 2)), 0);
}

TEST(Dropout, KeepRateAndScale) {
  const Layout l = make_layout({100, 100}, {0, 1});
  const at::Tensor y = dropout(at::ones({200, 500}), 0.1, kKey, l);
  const double n = 1e5, kept_count = y.gt(0).sum().item<double>();
  // Four standard deviations; the draw itself is fixed.
  EXPECT_NEAR(kept_count / n, 0.9, 4 * std::sqrt(0.09 / n));
  EXPECT_FLOAT_EQ(y.max().item<float>(), 1 / 0.9f);
}

TEST(Dropout, SeedStepSiteSampleAndPositionAllMatter) {
  const Layout l = make_layout({1}, {4});
  const auto mask = [](const DropoutKey& key, const Layout& layout) {
    return dropout(at::ones({1, 256}), 0.5, key, layout);
  };
  const at::Tensor base = mask(kKey, l);
  DropoutKey seed = kKey, step = kKey, site = kKey;
  seed.seed = 4;
  step.step = 12;
  site.site = dropout_site("y");
  for (const at::Tensor& other :
       {mask(seed, l), mask(step, l), mask(site, l),
        mask(kKey, make_layout({1}, {5})),
        mask(kKey, make_layout({1}, {(std::uint64_t{1} << 32) + 4})),
        mask(kKey, make_layout({1}, {4}, {1}))}) {
    // Independent halves differ in about half of the places.
    const double differing = base.ne(other).sum().item<double>();
    EXPECT_GT(differing, 80);
    EXPECT_LT(differing, 176);
  }
  EXPECT_EQ(largest_difference(base, mask(kKey, l)), 0);
}

TEST(Dropout, BackwardDrawsTheSameMask) {
  const Layout l = make_layout({2, 3}, {1, 2});
  at::Tensor x = leaf("x", {5, 40});
  const at::Tensor g = normal("g", {5, 40});
  const at::Tensor y = dropout(x, 0.4, kKey, l);
  y.mul(g).sum().backward();
  const at::Tensor mask = dropout(at::ones({5, 40}), 0.4, kKey, l);
  EXPECT_LT(largest_difference(x.grad(), g.mul(mask)), 1e-6);
  EXPECT_LT(largest_difference(y, x.mul(mask)), 1e-6);
}

TEST(Dropout, DroppedNumbersVanishEvenIfNotFinite) {
  const Layout l = make_layout({1}, {1});
  const at::Tensor x = at::ones({1, 64}).mul_(INFINITY);
  const at::Tensor y = dropout(x, 0.5, kKey, l);
  EXPECT_FALSE(y.isnan().any().item<bool>());
  EXPECT_TRUE(y.eq(0).any().item<bool>());
}

TEST(Dropout, ZeroIsTheIdentityAndOneIsRefused) {
  const Layout l = make_layout({1}, {1});
  const at::Tensor x = at::ones({1, 4});
  EXPECT_TRUE(dropout(x, 0, kKey, l).is_same(x));
  EXPECT_THROW(dropout(x, 1.0, kKey, l), UsageError);
  EXPECT_THROW(dropout(x, -0.1, kKey, l), UsageError);
  EXPECT_THROW(dropout(x, NAN, kKey, l), UsageError);
}

TEST(Dropout, PooledIsTheRowAtPositionZero) {
  const Layout l = make_layout({2, 3}, {1, 2});
  const at::Tensor all = dropout(at::ones({5, 33}), 0.4, kKey, l);
  const at::Tensor pooled = dropout_pooled(at::ones({2, 33}), 0.4, kKey, l);
  EXPECT_EQ(largest_difference(pooled[0], all[0]), 0);
  EXPECT_EQ(largest_difference(pooled[1], all[2]), 0);
}

TEST(Dropout, AttentionBelongsToSampleHeadQueryAndKey) {
  const Layout l = make_layout({2, 3}, {20, 21});
  const at::Tensor y = dropout_attention(at::ones({2, 4, 3, 9}), 0.5, kKey, l);
  for (std::uint32_t head = 0; head < 4; ++head) {
    for (std::uint32_t i = 0; i < 3; ++i) {
      for (std::uint32_t j = 0; j < 9; ++j) {
        EXPECT_EQ(y[1][head][i][j].item<float>(),
                  kept(0.5, kKey, 21, i, j, head) ? 2.0f : 0.0f);
      }
    }
  }
  // A wider padding and another place in the batch change nothing.
  const Layout wide = make_layout({5, 2}, {22, 20});
  const at::Tensor z =
      dropout_attention(at::ones({2, 4, 5, 40}), 0.5, kKey, wide);
  EXPECT_EQ(largest_difference(y[0].narrow(1, 0, 2),
                               z[1].narrow(1, 0, 2).narrow(2, 0, 9)),
            0);
}

}  // namespace
}  // namespace thinwire
