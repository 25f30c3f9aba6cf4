#include "comm/link_model.h"

#include <gtest/gtest.h>

#include <mutex>
#include <vector>

#include "comm/communicator.h"
#include "comm/threads.h"

namespace thinwire {
namespace {

constexpr LinkModel kSlow{100e-6, 0.8e-6, 0.25e-9};  // 10 Mbit/s
constexpr LinkModel kFast{1e-6, 1e-10, 0.25e-9};     // shared memory

TEST(LinkModel, PredictsByTheFormulas) {
  const LinkModel link{2, 3, 5};
  EXPECT_EQ(predict_seconds(link, Algorithm::kRing, 1, 100), 0);
  EXPECT_EQ(predict_seconds(link, Algorithm::kDoubling, 2, 10),
            2 + 10 * 3 + 10 * 5);
  EXPECT_EQ(predict_seconds(link, Algorithm::kDoubling, 8, 10),
            3 * (2 + 10 * 3 + 10 * 5));
  // One rank of three hands over first and gets the result last.
  EXPECT_EQ(predict_seconds(link, Algorithm::kDoubling, 3, 10),
            3 * (2 + 10 * 3) + 2 * 10 * 5);
  EXPECT_EQ(predict_seconds(link, Algorithm::kHalvingDoubling, 4, 16),
            4 * 2 + 12 * (2 * 3 + 5));
  EXPECT_EQ(predict_seconds(link, Algorithm::kRing, 5, 10),
            8 * 2 + 8 * (2 * 3 + 5));
}

TEST(LinkModel, ChoosesByStartAndSize) {
  for (const int p : {4, 8, 64}) {
    EXPECT_EQ(choose_algorithm(kSlow, p, 4), Algorithm::kDoubling);
    EXPECT_EQ(choose_algorithm(kSlow, p, 1 << 20), Algorithm::kHalvingDoubling);
    // Latency alone would choose doubling here; bytes come first.
    EXPECT_EQ(choose_algorithm({1, 1e-9, 1e-9}, p, kFewestBytesFrom),
              Algorithm::kHalvingDoubling);
  }
  EXPECT_EQ(choose_algorithm(kSlow, 2, 64 << 10), Algorithm::kDoubling);
  EXPECT_EQ(choose_algorithm(kSlow, 5, 1 << 20), Algorithm::kRing);
  EXPECT_EQ(choose_algorithm(kSlow, 5, 4), Algorithm::kDoubling);
  EXPECT_NE(choose_algorithm({}, 4, 100), Algorithm::kAuto);
}

TEST(LinkModel, ChoosesByHosts) {
  const std::int64_t large = 1 << 20;
  const auto choice = [&](std::vector<int> hosts, std::int64_t bytes) {
    return choose_algorithm(kSlow, static_cast<int>(hosts.size()), bytes,
                            hosts);
  };
  EXPECT_EQ(choice({0, 0, 0, 3, 3, 3}, large), Algorithm::kTwoLevel);
  EXPECT_EQ(choice({0, 0, 0, 3, 3, 3}, 100), Algorithm::kDoubling);
  EXPECT_EQ(choice({0, 0, 2, 2}, large), Algorithm::kHalvingDoubling);
  EXPECT_EQ(choice({0, 1, 0, 1}, large), Algorithm::kTwoLevel);
  EXPECT_EQ(choice({0, 0, 2}, large), Algorithm::kRing);
  EXPECT_EQ(choice({0, 1, 2}, large), Algorithm::kRing);
  EXPECT_EQ(choice({0, 0, 0}, large), Algorithm::kRing);
}

TEST(LinkModel, BucketsCostLittleToStart) {
  const std::int64_t total = 100 << 20;
  for (const LinkModel& link : {kSlow, kFast, LinkModel{1e-3, 1e-9, 1e-10}}) {
    for (const int p : {2, 5, 8, 64}) {
      const std::int64_t bytes = choose_bucket_bytes(link, p, total);
      const Algorithm algorithm = choose_algorithm(link, p, bytes);
      const double startup =
          predict_seconds({link.alpha, 0, 0}, algorithm, p, bytes);
      if (bytes < total) {
        EXPECT_LE(startup, 0.1 * predict_seconds(link, algorithm, p, bytes));
      }
    }
  }
  EXPECT_LE(choose_bucket_bytes(kSlow, 2, total), 64 << 10);
  EXPECT_GT(choose_bucket_bytes({1e-3, 1e-9, 1e-10}, 2, total), 1 << 20);
  EXPECT_EQ(choose_bucket_bytes(kSlow, 2, 1000), 1000);
  EXPECT_EQ(choose_bucket_bytes(kFast, 1, total), total);
}

TEST(LinkModel, IsMeasuredEqualOnAllRanks) {
  for (const int ranks : {1, 2, 3}) {
    std::mutex mutex;
    std::vector<LinkModel> links;
    run_ranks(ranks, [&](Communicator& comm) {
      // Between threads all probes are sent long before the time is up.
      const LinkModel link = measure_link(comm, 60);
      EXPECT_LE(comm.bytes().received, 1'100'000);
      const std::lock_guard lock(mutex);
      links.push_back(link);
    });
    for (const LinkModel& link : links) {
      EXPECT_EQ(link, links.front());
      EXPECT_GT(link.gamma, 0);
      EXPECT_EQ(link.alpha > 0, ranks > 1);
      EXPECT_EQ(link.beta > 0, ranks > 1);
    }
  }
}

}  // namespace
}  // namespace thinwire
