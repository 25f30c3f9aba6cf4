#include "peft/mask_schedule.h"

#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "base/error.h"

namespace thinwire {
namespace {

std::vector<std::int64_t> drawings(const MaskSchedule& schedule,
                                   std::int64_t steps) {
  std::vector<std::int64_t> out;
  for (auto b = schedule.next(0); b && *b < steps; b = schedule.next(*b)) {
    EXPECT_TRUE(schedule.draws_at(*b)) << *b;
    EXPECT_FALSE(schedule.draws_at(*b + 1)) << *b;
    out.push_back(*b);
  }
  return out;
}

using Steps = std::vector<std::int64_t>;

TEST(MaskSchedule, DrawsOnceAnewOrUntil) {
  EXPECT_EQ(drawings({"m", {}}, 100), Steps{});
  EXPECT_EQ(drawings({"m", {.dense_steps = 7}}, 100), Steps{7});
  EXPECT_EQ(drawings({"m", {.every = 30}}, 100), (Steps{30, 60, 90}));
  const MaskSchedule both("m", {.dense_steps = 10, .every = 20, .until = 70});
  EXPECT_EQ(drawings(both, 1000), (Steps{10, 30, 50, 70}));
  EXPECT_TRUE(both.dense(9));
  EXPECT_FALSE(both.dense(10));
  EXPECT_EQ(drawings({"m", {.every = 20, .until = 79}}, 1000),
            (Steps{20, 40, 60}));
}

TEST(MaskSchedule, DensityFallsToItsEndAndStays) {
  const MaskSchedule falls("m", {.dense_steps = 10,
                                 .every = 5,
                                 .until = 31,
                                 .density = 0.01,
                                 .density_start = 0.41});
  EXPECT_EQ(falls.density(10), 0.41);
  EXPECT_EQ(falls.density(15), 0.17875);  // 0.01 + 0.4 (3/4)^3
  EXPECT_EQ(falls.density(20), 0.06);
  EXPECT_EQ(falls.density(25), 0.01625);
  EXPECT_EQ(falls.density(30), 0.01);
  EXPECT_EQ(falls.next(30), std::nullopt);
  EXPECT_EQ(falls.density(31), 0.01);
  const MaskSchedule same("m", {.every = 5, .density = 0.3});
  EXPECT_EQ(same.density(0), 0.3);
  EXPECT_EQ(same.density(5), 0.3);
}

TEST(MaskSchedule, SaysWhatDoesNotFit) {
  const auto refusal = [](const MaskSchedule::Options& options) {
    try {
      MaskSchedule("m", options);
    } catch (const UsageError& e) {
      return std::string(e.what());
    }
    return std::string("accepted");
  };
  EXPECT_EQ(refusal({.density = 0}), "m: density must be in (0, 1], got 0");
  EXPECT_EQ(refusal({.until = 9}),
            "m: remask_until 9 ends what never begins; set remask_every too");
  EXPECT_EQ(refusal({.dense_steps = 5, .every = 5, .until = 9}),
            "m: remask_until 9 comes before the first mask is drawn anew, at "
            "step 10");
  EXPECT_EQ(refusal({.every = 5, .until = 9, .density_start = 2}),
            "m: density_start must be in (0, 1], got 2");
  EXPECT_EQ(refusal({.every = 5, .density_start = 0.5}),
            "m: density_start becomes density while masks are drawn anew; set "
            "remask_every and remask_until, by when");
}

}  // namespace
}  // namespace thinwire
