#include "data/order.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <vector>

#include "base/error.h"
#include "base/random.h"

namespace thinwire {
namespace {

// A stand-in for stored lengths: 1 to 64 tokens, spread by a hash.
std::vector<std::int32_t> lengths(std::int64_t first, std::int64_t count) {
  std::vector<std::int32_t> out;
  for (std::int64_t i = first; i < first + count; ++i) {
    out.push_back(static_cast<std::int32_t>(
        1 + mix64(static_cast<std::uint64_t>(i)) % 64));
  }
  return out;
}

GlobalOrder make(std::int64_t n, std::int64_t bucket, std::uint64_t seed = 1) {
  return GlobalOrder(n, {seed, true, bucket, 32}, &lengths);
}

std::vector<std::int64_t> epoch(const GlobalOrder& order, std::uint64_t e) {
  std::vector<std::int64_t> out;
  for (std::int64_t w = 0; w < order.windows(); ++w) {
    const auto part = order.window(e, w);
    out.insert(out.end(), part.begin(), part.end());
  }
  return out;
}

TEST(GlobalOrder, EveryEpochIsAPermutation) {
  for (const std::int64_t n : {1, 2, 31, 255, 256, 257, 16384, 16385, 50001}) {
    for (const std::int64_t bucket : {0, 2048}) {
      const auto order = make(n, bucket);
      for (const std::uint64_t e : {0u, 1u, 7u}) {
        auto all = epoch(order, e);
        std::sort(all.begin(), all.end());
        std::vector<std::int64_t> want(static_cast<std::size_t>(n));
        std::iota(want.begin(), want.end(), 0);
        ASSERT_EQ(all, want) << n << " " << bucket << " " << e;
      }
    }
  }
}

TEST(GlobalOrder, IsAFunctionOfSeedAndEpoch) {
  EXPECT_EQ(epoch(make(5000, 2048), 3), epoch(make(5000, 2048), 3));
  EXPECT_NE(epoch(make(5000, 2048), 3), epoch(make(5000, 2048), 4));
  EXPECT_NE(epoch(make(5000, 2048, 1), 3), epoch(make(5000, 2048, 2), 3));
}

TEST(GlobalOrder, MixesNeighbours) {
  // Neighbours in storage lie about n/3 apart in a random order; and a sample's
  // new place says nothing about its old one (correlation within 4 sigma).
  const std::int64_t n = 40000;
  const auto order = epoch(make(n, 0), 0);
  std::vector<double> place(static_cast<std::size_t>(n));
  for (std::size_t i = 0; i < order.size(); ++i) {
    place[static_cast<std::size_t>(order[i])] = static_cast<double>(i);
  }
  double far = 0, product = 0;
  const double mean = static_cast<double>(n - 1) / 2;
  for (std::size_t i = 0; i + 1 < place.size(); ++i) {
    far += std::abs(place[i + 1] - place[i]);
    product += (place[i] - mean) * (static_cast<double>(i) - mean);
  }
  // Chunks travel whole into a window, so neighbours stay within one window.
  EXPECT_GT(far / static_cast<double>(n), GlobalOrder::kWindow / 5.0);
  const double variance = static_cast<double>(n) * static_cast<double>(n) / 12;
  // Chunks, not samples, are the independent units of the coarse order.
  EXPECT_LT(std::abs(product / variance / static_cast<double>(n)),
            4 / std::sqrt(static_cast<double>(n) / GlobalOrder::kChunk));
}

TEST(GlobalOrder, PiecesAreOfLikeLength) {
  const std::int64_t n = 20000;
  const auto order = make(n, 2048);
  const auto all_lengths = lengths(0, n);
  // In every epoch pieces begin at multiples of 32 of all samples so far.
  for (const std::uint64_t e : {0u, 1u, 5u}) {
    const auto all = epoch(order, e);
    const std::size_t lead = (32 - e * n % 32) % 32;
    double spread = 0;
    int pieces = 0;
    for (std::size_t at = lead; at + 32 <= all.size(); at += 32, ++pieces) {
      std::int32_t low = 1 << 20, high = 0;
      for (std::size_t i = at; i < at + 32; ++i) {
        const auto len = all_lengths[static_cast<std::size_t>(all[i])];
        low = std::min(low, len);
        high = std::max(high, len);
      }
      spread += high - low;
    }
    EXPECT_LT(spread / pieces, 4.0) << "epoch " << e;  // at random: about 60
  }
  // And short and long pieces alternate at random.
  const auto all = epoch(order, 0);
  int up = 0, total = 0;
  for (std::size_t at = 0; at + 64 <= all.size(); at += 32, ++total) {
    up += all_lengths[static_cast<std::size_t>(all[at])] <
          all_lengths[static_cast<std::size_t>(all[at + 32])];
  }
  EXPECT_GT(up, total / 3);
  EXPECT_LT(up, total * 2 / 3);
}

TEST(GlobalOrder, StartsAtOnceInABillionSamples) {
  const std::int64_t n = 1'000'000'007;
  const auto order = make(n, 2048);
  const auto one = order.window(123, order.windows() / 2);
  EXPECT_EQ(static_cast<std::int64_t>(one.size()), GlobalOrder::kWindow);
  const auto last = order.window(123, order.windows() - 1);
  EXPECT_EQ(static_cast<std::int64_t>(last.size()), n % GlobalOrder::kWindow);
  EXPECT_TRUE(std::find(last.begin(), last.end(), n - 1) != last.end());
}

TEST(GlobalOrder, StorageOrderWithoutShuffle) {
  const GlobalOrder order(20000, {1, false, 2048, 32}, &lengths);
  const auto all = epoch(order, 4);
  EXPECT_TRUE(std::is_sorted(all.begin(), all.end()));
  EXPECT_EQ(all.size(), 20000u);
}

TEST(GlobalOrder, RefusesNonsense) {
  EXPECT_THROW(make(0, 0), UsageError);
  EXPECT_THROW(GlobalOrder(5, {1, true, -1, 32}, &lengths), UsageError);
  EXPECT_THROW(GlobalOrder(5, {1, true, 64, 0}, &lengths), UsageError);
}

}  // namespace
}  // namespace thinwire
