#include "dist/gradient.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <vector>

#include "dist/optimizer_testing.h"

namespace thinwire {
namespace {

using trial::fill_grads;
using trial::make_delta;

TEST(Gradient, ActivityDecidesByStepAndTask) {
  const Delta delta = make_delta();
  EXPECT_EQ(tasks_asked(delta), std::vector<std::int32_t>{7});
  const std::int32_t seven[] = {7};
  EXPECT_EQ(active_entries(delta, 1, {}),
            (std::vector<bool>{true, true, false, false}));
  EXPECT_EQ(active_entries(delta, 2, seven),
            (std::vector<bool>{true, true, true, true}));
}

TEST(Gradient, EachClipGroupHasItsOwnNorm) {
  Delta delta = make_delta();
  fill_grads(delta, 4);
  const std::vector<bool> active = {true, true, false, false};
  // Scaled by 1/2: each of the two entries has norm sqrt(3) * 2.
  const GradientScale s = scale_gradient(delta, active, 0.5, 1.0);
  EXPECT_TRUE(s.finite);
  EXPECT_DOUBLE_EQ(s.norm, std::sqrt(24));
  EXPECT_DOUBLE_EQ(s.group[0], 0.5 / (std::sqrt(12) + 1e-6));
  EXPECT_DOUBLE_EQ(s.group[1], 0.5 / (std::sqrt(12) + 1e-6));
  const std::vector<bool> all = {true, true, true, true};
  const GradientScale t = scale_gradient(delta, all, 0.5, 1.0);
  EXPECT_DOUBLE_EQ(t.group[0], 0.5 / (6 + 1e-6));
  EXPECT_DOUBLE_EQ(t.group[1], 0.5 / (std::sqrt(12) + 1e-6));
  EXPECT_DOUBLE_EQ(scale_gradient(delta, all, 0.5, 0).group[0], 0.5);
}

TEST(Gradient, ShortGradientsAreNotStretched) {
  Delta delta = make_delta();
  fill_grads(delta, 0.01f);
  const GradientScale s =
      scale_gradient(delta, {true, true, true, true}, 1, 1.0);
  EXPECT_EQ(s.group, (std::vector<double>{1, 1}));
}

TEST(Gradient, NonFiniteNumbersAreFoundAndNamed) {
  Delta delta = make_delta();
  fill_grads(delta, 1);
  EXPECT_EQ(first_nonfinite(delta), "");
  delta.grads()[delta.entries()[2].offset + 1] =
      std::numeric_limits<float>::infinity();
  EXPECT_EQ(first_nonfinite(delta), "late");
  EXPECT_FALSE(scale_gradient(delta, {true, true, true, true}, 1, 1.0).finite);
  EXPECT_TRUE(scale_gradient(delta, {true, true, false, true}, 1, 1.0).finite);
}

}  // namespace
}  // namespace thinwire
