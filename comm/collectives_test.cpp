#include "comm/collectives.h"

#include <gtest/gtest.h>

namespace thinwire {
namespace {

// That the counters equal the formula is held by communicator_suite.h.
TEST(AllReduceBytes, LargeOnesAreTwoTimesAllButOneChunk) {
  for (int p = 1; p <= 64; ++p) {
    for (std::int64_t chunk : {4096, 20000, 123457}) {
      const std::int64_t bytes = 4 * chunk * p;
      for (int r = 0; r < p; ++r) {
        EXPECT_EQ(all_reduce_bytes_sent(p, r, bytes), 2 * (p - 1) * 4 * chunk);
      }
    }
  }
}

TEST(AllReduceBytes, StayWithinTwoPercentOfTheBound) {
  for (int p = 1; p <= 256; ++p) {
    for (std::int64_t k : {16384, 16385, 20011, 100003, 1000003}) {
      for (int r = 0; r < p; ++r) {
        ASSERT_LE(static_cast<double>(all_reduce_bytes_sent(p, r, 4 * k)),
                  1.02 * 2 * (p - 1) / p * 4 * static_cast<double>(k))
            << "P = " << p << ", rank " << r << ", k = " << k;
      }
    }
  }
}

TEST(AllReduceBytes, SmallMessagesDouble) {
  EXPECT_EQ(all_reduce_bytes_sent(1, 0, 100), 0);
  EXPECT_EQ(all_reduce_bytes_sent(2, 1, 100), 100);
  EXPECT_EQ(all_reduce_bytes_sent(8, 3, 100), 300);
  // Five ranks: rank 0 hands over to rank 1, four double.
  EXPECT_EQ(all_reduce_bytes_sent(5, 0, 100), 100);
  EXPECT_EQ(all_reduce_bytes_sent(5, 1, 100), 300);
  EXPECT_EQ(all_reduce_bytes_sent(5, 4, 100), 200);
}

}  // namespace
}  // namespace thinwire
