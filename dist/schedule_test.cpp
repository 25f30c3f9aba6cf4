#include "dist/schedule.h"

#include <gtest/gtest.h>

#include <vector>

#include "base/error.h"

namespace thinwire {
namespace {

std::vector<double> curve(Schedule schedule, std::int64_t warmup,
                          std::int64_t steps) {
  std::vector<double> rates;
  for (std::int64_t s = 0; s < steps; ++s) {
    rates.push_back(learning_rate(schedule, 2.0, warmup, steps, s));
  }
  return rates;
}

// transformers.get_linear_schedule_with_warmup(optimizer, 2, 6), lr 2.
TEST(Schedule, LinearIsThatOfTransformers) {
  EXPECT_EQ(curve(Schedule::kLinear, 2, 6),
            (std::vector<double>{0, 1, 2, 1.5, 1, 0.5}));
}

TEST(Schedule, CosineStartsAtFullRateAndIsSymmetric) {
  const auto c = curve(Schedule::kCosine, 0, 8);
  EXPECT_DOUBLE_EQ(c[0], 2);
  EXPECT_DOUBLE_EQ(c[4], 1);
  EXPECT_NEAR(c[1] + c[7], 2, 1e-15);
}

TEST(Schedule, ConstantKeepsTheRateAfterWarmUp) {
  EXPECT_EQ(curve(Schedule::kConstant, 2, 4),
            (std::vector<double>{0, 1, 2, 2}));
}

TEST(Schedule, WarmUpMayOutlastTheRun) {
  EXPECT_EQ(curve(Schedule::kLinear, 4, 2), (std::vector<double>{0, 0.5}));
}

TEST(Schedule, UnknownNameListsTheKnownOnes) {
  EXPECT_THROW(parse_schedule("step"), UsageError);
  EXPECT_EQ(parse_schedule("cosine"), Schedule::kCosine);
}

}  // namespace
}  // namespace thinwire
