#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/error.h"
#include "comm/threads.h"
#include "launch/bench/comm_bench.h"
#include "launch/bench/parse.h"
#include "launch/bench/report.h"

namespace thinwire {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

TEST(Bench, SizesAreListsAndRanges) {
  EXPECT_THAT(parse_sizes("4,1K,64K,2M,1G"),
              ElementsAre(4, 1024, 65536, 2 << 20, 1 << 30));
  EXPECT_THAT(parse_sizes("4-1K,5000"),
              ElementsAre(4, 16, 64, 256, 1024, 5000));
  for (const char* bad : {"", "6", "0", "-4", "4k", "1K,1K", "64-4", "4,,8",
                          "99999999999999999999", "1099511627776G"}) {
    EXPECT_THROW(parse_sizes(bad), UsageError) << bad;
  }
}

TEST(Bench, ALineIsFoundAgainAndNoiseIsItsResidual) {
  const std::vector<double> bytes{4, 1024, 65536, 1 << 22};
  std::vector<double> seconds;
  for (const double b : bytes) seconds.push_back(20e-6 + 0.25e-9 * b);
  LineFit fit = fit_line(bytes, seconds);
  EXPECT_NEAR(fit.alpha, 20e-6, 1e-12);
  EXPECT_NEAR(fit.beta, 0.25e-9, 1e-17);
  EXPECT_LT(fit.residual, 1e-9);
  seconds[1] *= 1.2;
  fit = fit_line(bytes, seconds);
  EXPECT_GT(fit.residual, 0.05);
  EXPECT_LT(fit.residual, 0.2);
  EXPECT_THROW(fit_line({8}, {1}), UsageError);
  EXPECT_THROW(fit_line({8, 8}, {1, 2}), UsageError);
}

TEST(Bench, QuantilesAreOfTheNearestRank) {
  EXPECT_EQ(quantile({3, 1, 2}, 0.5), 2);
  EXPECT_EQ(quantile({3, 1, 2}, 1), 3);
  EXPECT_EQ(quantile({}, 0.5), 0);
}

TEST(Bench, EveryCaseIsCheckedCountedAndTimed) {
  for (const int ranks : {1, 3}) {
    run_ranks(ranks, [&](Communicator& comm) {
      CommBenchOptions options;
      options.sizes = {4, 20000};
      options.seconds = 0.002;
      options.rounds = 2;
      for (const BenchPath path :
           {BenchPath::kCollective, BenchPath::kTrainer}) {
        for (const Codec codec : {Codec::kFp32, Codec::kBf16, Codec::kInt8}) {
          options.cases.push_back({path, Algorithm::kRing, codec});
        }
      }
      CommBenchResult result;
      result.backend = "threads";
      result.ranks = ranks;
      result.rows = bench_comm(comm, options);
      ASSERT_EQ(result.rows.size(), 12u);
      for (const CommBenchRow& row : result.rows) {
        ASSERT_EQ(std::ssize(row.per_rank), ranks);
        EXPECT_EQ(row.per_rank.front().sent > 0, ranks > 1);
        EXPECT_GT(row.p50, 0);
        EXPECT_LE(row.least, row.p50);
        EXPECT_LE(row.p50, row.p95);
        EXPECT_EQ(row.round_p50.size(), 2u);
        EXPECT_TRUE(row.error == 0 || row.what.codec != Codec::kFp32);
      }
      EXPECT_THAT(format_result(result), HasSubstr("alpha"));
      EXPECT_EQ(to_json(result)["rows"].size(), 12u);
      EXPECT_EQ(to_json(result)["fits"].size(), 6u);
    });
  }
}

TEST(Bench, SlowdownOfComputeIsMeasured) {
  run_ranks(2, [](Communicator& comm) {
    CommBenchOptions options;
    options.sizes = {65536};
    options.cases = {{BenchPath::kTrainer, Algorithm::kAuto, Codec::kFp32}};
    const auto rows = bench_slowdown(comm, options, 0.002);
    ASSERT_EQ(rows.size(), 1u);
    EXPECT_GT(rows[0].alone, 0);
    EXPECT_GT(rows[0].beside, 0);
    EXPECT_GE(rows[0].covered, 0);
    EXPECT_LE(rows[0].covered, 1);
  });
}

}  // namespace
}  // namespace thinwire
