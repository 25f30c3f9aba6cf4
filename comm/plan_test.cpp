#include "comm/plan.h"

#include <gtest/gtest.h>

#include <vector>

#include "comm/codec.h"
#include "comm/reducer.h"

namespace thinwire {
namespace {

constexpr Algorithm kAlgorithms[] = {Algorithm::kDoubling,
                                     Algorithm::kHalvingDoubling,
                                     Algorithm::kRing, Algorithm::kTwoLevel};

PlanShape shape_of(Algorithm algorithm, Codec codec, int ranks, int rank,
                   std::int64_t count) {
  return {.algorithm = algorithm,
          .codec = codec,
          .ranks = ranks,
          .rank = rank,
          .hosts = std::vector<int>(static_cast<std::size_t>(ranks)),
          .count = count};
}

// More numbers than 32 bits count: only arithmetic, nothing is allocated.
TEST(Plan, SegmentsCoverAnyCount) {
  for (const Algorithm algorithm : kAlgorithms) {
    for (const Codec codec : {Codec::kFp32, Codec::kInt8}) {
      for (const std::int64_t n :
           {1LL, 255LL, 100'000LL, 1'000'001LL, 5'000'000'019LL}) {
        const auto shape = shape_of(algorithm, codec, 6, 2, n);
        const Plan plan = make_plan(shape);
        std::int64_t at = 0;
        for (const Segment& segment : plan.segments) {
          ASSERT_EQ(segment.range.begin, at);
          ASSERT_EQ(at % codec_grain(codec), 0);
          at = segment.range.end();
          for (const Round& round : plan.schedules[segment.schedule]) {
            ASSERT_LE(round.out.range.end(), segment.range.count);
            ASSERT_LE(round.in.range.end(), segment.range.count);
            ASSERT_LE(round.seal.end(), segment.range.count);
          }
        }
        EXPECT_EQ(at, n);
        EXPECT_LE(plan.longest_message, shape.longest_message);
        EXPECT_LE(plan.schedules.size(), 3u);
      }
    }
  }
}

TEST(Plan, MessagesFitTheTransport) {
  for (const Algorithm algorithm : kAlgorithms) {
    auto shape = shape_of(algorithm, Codec::kFp32, 5, 1, 1'000'000);
    shape.longest_message = 10'000;
    shape.guard = true;
    EXPECT_LE(make_plan(shape).longest_message, 10'000);
  }
}

TEST(Plan, BytesStayNearTheBound) {
  for (const int p : {2, 3, 4, 5, 8, 64, 100}) {
    const bool power = (p & (p - 1)) == 0;
    for (const std::int64_t n :
         {16384LL, 16385LL, 300'001LL, 3'000'000'000LL}) {
      for (const Algorithm algorithm :
           {Algorithm::kHalvingDoubling, Algorithm::kRing}) {
        if (algorithm == Algorithm::kHalvingDoubling && !power) continue;
        for (int rank = 0; rank < p; rank += 1 + p / 7) {
          auto shape = shape_of(algorithm, Codec::kFp32, p, rank, n);
          const double bound = 2.0 * (p - 1) / p * 4 * static_cast<double>(n);
          const auto sent = plan_bytes(make_plan(shape), shape).sent;
          ASSERT_LE(static_cast<double>(sent), 1.02 * bound)
              << "P = " << p << ", n = " << n;
          shape.codec = Codec::kInt8;
          const auto coded = plan_bytes(make_plan(shape), shape).sent;
          if (n >= 256 * 50 * p) {
            ASSERT_LE(static_cast<double>(coded), 0.27 * bound)
                << "P = " << p << ", n = " << n;
          }
        }
      }
    }
  }
}

// The same where a large vector goes in small buckets.
TEST(Plan, SmallBucketsAreSparingToo) {
  for (const int p : {2, 3, 5, 8}) {
    ReducerOptions options;
    for (int i = 0; i < 20; ++i) options.buckets.push_back({i * 840, 840});
    const double bound = 2.0 * (p - 1) / p * 4 * 20 * 840;
    for (int rank = 0; rank < p; ++rank) {
      EXPECT_LE(static_cast<double>(exchange_bytes(options, p, rank).sent),
                1.03 * bound)
          << "P = " << p << ", rank " << rank;
    }
  }
}

TEST(Plan, TheLibraryGetsWhatAnIntCounts) {
  const auto shape = shape_of(Algorithm::kMpi, Codec::kFp32, 7, 0, 9LL << 30);
  const Plan plan = make_plan(shape);
  for (const Segment& segment : plan.segments) {
    EXPECT_LT(segment.range.count, std::int64_t{1} << 31);
    EXPECT_TRUE(plan.schedules[segment.schedule].empty());
  }
  EXPECT_GE(plan.segments.size(), 9u);
  EXPECT_EQ(plan_bytes(plan, shape).sent, 4 * shape.count);
}

TEST(Plan, AGuardAloneIsAnExchange) {
  auto shape = shape_of(Algorithm::kRing, Codec::kFp32, 8, 3, 0);
  EXPECT_TRUE(make_plan(shape).segments.empty());
  shape.guard = true;
  EXPECT_EQ(make_plan(shape).segments.size(), 1u);
  EXPECT_EQ(plan_bytes(make_plan(shape), shape).sent, 3 * 32);
}

}  // namespace
}  // namespace thinwire
