#include "base/random.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstdint>
#include <numbers>
#include <vector>

#include "base/error.h"

namespace thinwire {
namespace {

// The published known answers of Random123 for philox4x32 with 10 rounds.
TEST(Philox, KnownAnswers) {
  EXPECT_EQ(philox({0, 0}, {0, 0, 0, 0}),
            (PhiloxBlock{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}));
  EXPECT_EQ(philox({0xffffffff, 0xffffffff},
                   {0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff}),
            (PhiloxBlock{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}));
  EXPECT_EQ(philox({0xa4093822, 0x299f31d0},
                   {0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}),
            (PhiloxBlock{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}));
}

TEST(Philox, KeyDependsOnSeedPurposeAndStep) {
  const auto number = [](PhiloxKey key) {
    return std::uint64_t{key.k1} << 32 | key.k0;
  };
  const auto base = number(make_key(1, Purpose::kTest, 5));
  EXPECT_EQ(base, number(make_key(1, Purpose::kTest, 5)));
  EXPECT_NE(base, number(make_key(2, Purpose::kTest, 5)));
  EXPECT_NE(base, number(make_key(1, Purpose::kMask, 5)));
  EXPECT_NE(base, number(make_key(1, Purpose::kTest, 6)));
}

TEST(Philox, Uniform01StaysBelowOne) {
  EXPECT_EQ(uniform01(0), 0.0f);
  EXPECT_EQ(uniform01(0xffffffffu), 1.0f - 0x1.0p-24f);
}

TEST(Fill, PrefixOfALongerFillIsTheShorterFill) {
  for (const std::int64_t n : {0, 1, 3, 4, 5, 31}) {
    std::vector<float> longer(64), shorter(64, -9.0f);
    fill_normal(longer.data(), 64, 7, "w", 0.02f);
    fill_normal(shorter.data(), n, 7, "w", 0.02f);
    for (std::int64_t i = 0; i < n; ++i) EXPECT_EQ(shorter[i], longer[i]);
    for (std::int64_t i = n; i < 64; ++i) EXPECT_EQ(shorter[i], -9.0f);
    fill_uniform(longer.data(), 64, 7, "w", -1.0f, 1.0f);
    fill_uniform(shorter.data(), n, 7, "w", -1.0f, 1.0f);
    for (std::int64_t i = 0; i < n; ++i) EXPECT_EQ(shorter[i], longer[i]);
  }
}

TEST(Fill, NamesAndSeedsDiffer) {
  std::vector<float> a(8), b(8), c(8);
  fill_normal(a.data(), 8, 7, "layer.0", 1.0f);
  fill_normal(b.data(), 8, 7, "layer.1", 1.0f);
  fill_normal(c.data(), 8, 8, "layer.0", 1.0f);
  EXPECT_NE(a, b);
  EXPECT_NE(a, c);
}

TEST(Fill, MomentsAreRight) {
  constexpr std::int64_t kN = 100000;
  std::vector<float> x(kN);
  const auto moments = [&] {
    double sum = 0, square = 0;
    for (const float v : x) {
      sum += v;
      square += static_cast<double>(v) * v;
    }
    return std::pair(sum / kN, square / kN);
  };
  fill_normal(x.data(), kN, 3, "moments", 2.0f);
  auto [mean, square] = moments();
  EXPECT_NEAR(mean, 0.0, 5 * 2.0 / std::sqrt(kN));  // five standard errors
  EXPECT_NEAR(square, 4.0, 5 * 4.0 * std::sqrt(2.0 / kN));
  fill_uniform(x.data(), kN, 3, "moments", -1.0f, 3.0f);
  std::tie(mean, square) = moments();
  EXPECT_NEAR(mean, 1.0, 5 * std::sqrt(16.0 / 12 / kN));
  for (const float v : x) {
    ASSERT_GE(v, -1.0f);
    ASSERT_LT(v, 3.0f);
  }
}

// The twin: one block at a time, the C library's functions in fp64.
TEST(Fill, NormalIsBoxMullerOfThePhiloxBlocks) {
  constexpr std::int64_t kN = 4099;
  std::vector<float> x(kN);
  fill_normal(x.data(), kN, 5, "twin", 1.0f);
  const PhiloxKey key = make_key(5, Purpose::kInit);
  const std::uint64_t id = name_seed("twin");
  for (std::int64_t i = 0; i < kN; ++i) {
    const PhiloxBlock b = philox(key, {static_cast<std::uint32_t>(i / 4), 0,
                                       static_cast<std::uint32_t>(id),
                                       static_cast<std::uint32_t>(id >> 32)});
    const auto pair = static_cast<std::size_t>(i % 4 / 2 * 2);
    const double radius =
        std::sqrt(-2.0 * std::log(1.0 - double{uniform01(b[pair])}));
    const double angle =
        2.0 * std::numbers::pi * double{uniform01(b[pair + 1])};
    const double z = radius * (i % 2 == 0 ? std::cos(angle) : std::sin(angle));
    ASSERT_NEAR(x[static_cast<std::size_t>(i)], z, 4e-6) << i;
  }
}

TEST(PermuteIndex, IsABijection) {
  const PhiloxKey key = make_key(11, Purpose::kOrder);
  for (const std::uint64_t n : {1, 2, 3, 4, 5, 16, 17, 100, 1000, 4097}) {
    std::vector<bool> seen(n, false);
    for (std::uint64_t i = 0; i < n; ++i) {
      const std::uint64_t j = permute_index(i, n, key);
      ASSERT_LT(j, n);
      ASSERT_FALSE(seen[j]) << "n = " << n << ", i = " << i;
      seen[j] = true;
    }
  }
}

TEST(PermuteIndex, MovesMostItemsAndDependsOnTheKey) {
  constexpr std::uint64_t kN = 1000;
  int fixed = 0, equal = 0;
  for (std::uint64_t i = 0; i < kN; ++i) {
    const auto a = permute_index(i, kN, make_key(1, Purpose::kOrder));
    const auto b = permute_index(i, kN, make_key(2, Purpose::kOrder));
    fixed += a == i;
    equal += a == b;
  }
  EXPECT_LT(fixed, 20);  // one expected of a random permutation
  EXPECT_LT(equal, 20);
}

TEST(PermuteIndex, WorksOnHugeRangesAndRefusesOutside) {
  const PhiloxKey key = make_key(1, Purpose::kOrder);
  const std::uint64_t n = std::uint64_t{1} << 50;
  EXPECT_LT(permute_index(n - 1, n, key), n);
  EXPECT_NE(permute_index(0, n, key), permute_index(1, n, key));
  EXPECT_THROW(permute_index(5, 5, key), InternalError);
}

}  // namespace
}  // namespace thinwire
