#include "comm/codec.h"

#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <limits>
#include <string>
#include <vector>

#include "base/random.h"

namespace thinwire {
namespace {

constexpr float kInf = std::numeric_limits<float>::infinity();
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

std::vector<float> normal(std::int64_t n, const std::string& name) {
  std::vector<float> x(static_cast<std::size_t>(n));
  fill_normal(x.data(), n, 3, name, 1.0f);
  return x;
}

std::vector<std::byte> encoded(Codec codec, std::span<const float> x) {
  std::vector<std::byte> bytes(
      static_cast<std::size_t>(encoded_bytes(codec, std::ssize(x))));
  encode(codec, x, bytes.data());
  return bytes;
}

std::vector<float> round_trip(Codec codec, std::span<const float> x) {
  std::vector<float> y(x.size());
  decode(codec, encoded(codec, x).data(), y);
  return y;
}

class Codecs : public testing::TestWithParam<Codec> {};
INSTANTIATE_TEST_SUITE_P(
    All, Codecs, testing::Values(Codec::kFp32, Codec::kBf16, Codec::kInt8),
    [](const auto& param) { return std::string(name_of(param.param)); });

TEST_P(Codecs, BytesOfParts) {
  const std::int64_t grain = codec_grain(GetParam());
  for (const std::int64_t n : {0, 1, 255, 256, 257, 1000, 70001}) {
    const auto x = normal(n, "x");
    const auto whole = encoded(GetParam(), x);
    for (std::int64_t cut = 0; cut <= n; cut += 3 * grain) {
      const auto c = static_cast<std::size_t>(cut);
      auto parts = encoded(GetParam(), std::span(x).first(c));
      const auto rest = encoded(GetParam(), std::span(x).subspan(c));
      parts.insert(parts.end(), rest.begin(), rest.end());
      ASSERT_EQ(parts, whole) << "n = " << n << ", cut at " << cut;
      if (n > 2000) cut += 997 * grain;
    }
  }
}

TEST_P(Codecs, WhatIsNotFiniteStaysSo) {
  for (const float bad : {kInf, -kInf, kNan, -kNan}) {
    for (const std::size_t at : {0ul, 300ul, 999ul}) {
      auto x = normal(1000, "x");
      x[at] = bad;
      EXPECT_FALSE(std::isfinite(round_trip(GetParam(), x)[at]));
      auto rest = std::vector<float>(x.size(), 0.25f);
      std::vector<std::byte> bytes(
          static_cast<std::size_t>(encoded_bytes(GetParam(), 1000)));
      seal(GetParam(), x, bytes.data(), rest.data());
      EXPECT_FALSE(std::isfinite(x[at]));
      for (const float r : rest) ASSERT_TRUE(std::isfinite(r));
      EXPECT_EQ(rest[at], 0.25f);
    }
  }
}

TEST_P(Codecs, SealKeepsWhatRoundingTook) {
  const auto x = normal(5000, "x");
  const auto old = normal(5000, "old rest");
  auto y = x;
  auto rest = old;
  std::vector<std::byte> bytes(
      static_cast<std::size_t>(encoded_bytes(GetParam(), 5000)));
  seal(GetParam(), y, bytes.data(), rest.data());
  EXPECT_EQ(bytes, encoded(GetParam(), x));
  EXPECT_EQ(y, round_trip(GetParam(), x));
  double lost = 0;
  for (std::size_t i = 0; i < x.size(); ++i) {
    ASSERT_EQ(rest[i], old[i] + (x[i] - y[i]));
    lost += std::fabs(x[i] - y[i]);
  }
  EXPECT_EQ(lost > 0, GetParam() != Codec::kFp32);
}

TEST_P(Codecs, AddsInTheOrderOfRanks) {
  auto x = normal(5000, "x");
  const auto y = normal(5000, "y");
  x[7] = std::bit_cast<float>(0x7fc10000u);
  auto z = y;
  z[7] = std::bit_cast<float>(0x7fc20000u);
  const auto xd = round_trip(GetParam(), x), zd = round_trip(GetParam(), z);
  auto low = xd, high = zd;  // what the two ranks hold
  decode_add(GetParam(), encoded(GetParam(), z).data(), low, false);
  decode_add(GetParam(), encoded(GetParam(), x).data(), high, true);
  for (std::size_t i = 0; i < x.size(); ++i) {
    ASSERT_EQ(std::bit_cast<std::uint32_t>(low[i]),
              std::bit_cast<std::uint32_t>(high[i]));
    if (std::isfinite(low[i])) {
      ASSERT_EQ(low[i], xd[i] + zd[i]);
    }
  }
}

// Every 2^16 bit patterns' neighbourhood, against the definition in double.
TEST(Bf16, RoundsToNearestEven) {
  for (std::uint32_t high = 0; high < 0x10000; ++high) {
    for (const std::uint32_t low : {0u, 1u, 0x7fffu, 0x8000u, 0x8001u}) {
      const float x = std::bit_cast<float>(high << 16 | low);
      const float y = round_trip(Codec::kBf16, std::span(&x, 1))[0];
      if (std::isnan(x)) {
        ASSERT_TRUE(std::isnan(y));
        continue;
      }
      const bool up = low > 0x8000u || (low == 0x8000u && (high & 1) != 0);
      ASSERT_EQ(std::bit_cast<std::uint32_t>(y), (high + (up ? 1 : 0)) << 16)
          << std::hex << high << " " << low;
    }
  }
}

TEST(Int8, BlocksKeepTheirOwnScale) {
  EXPECT_LE(static_cast<double>(encoded_bytes(Codec::kInt8, 1 << 20)),
            0.255 * 4 * (1 << 20));
  auto x = normal(1024, "x");
  for (std::size_t i = 256; i < 512; ++i) x[i] *= 1e-20f;
  for (std::size_t i = 512; i < 768; ++i) x[i] = 0;
  for (std::size_t i = 768; i < 1024; ++i) x[i] *= 1e30f;
  const auto y = round_trip(Codec::kInt8, x);
  for (std::size_t block = 0; block < 1024; block += 256) {
    float most = 0;
    for (std::size_t i = block; i < block + 256; ++i) {
      most = std::max(most, std::fabs(x[i]));
    }
    for (std::size_t i = block; i < block + 256; ++i) {
      ASSERT_LE(std::fabs(x[i] - y[i]), most / 127 * 0.5001f) << i;
      if (std::fabs(x[i]) == most) {
        ASSERT_NEAR(y[i], x[i], 1e-6f * most);
      }
    }
  }
  // Too small for a scale: nothing is sent, all of it is kept.
  std::vector<float> tiny(256, 1e-40f), rest(256);
  std::vector<std::byte> bytes(260);
  seal(Codec::kInt8, tiny, bytes.data(), rest.data());
  EXPECT_EQ(tiny[0], 0);
  EXPECT_EQ(rest[0], 1e-40f);
}

}  // namespace
}  // namespace thinwire
