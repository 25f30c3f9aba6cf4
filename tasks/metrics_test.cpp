#include "tasks/metrics.h"

#include <gtest/gtest.h>

#include <cmath>
#include <fstream>
#include <nlohmann/json.hpp>
#include <vector>

namespace thinwire {
namespace {

using Values = std::vector<double>;

nlohmann::json golden() {
  return nlohmann::json::parse(
      std::ifstream(THINWIRE_SOURCE_DIR "/tests/golden/metrics.json"));
}

constexpr double kRounding = 1e-12;  // double precision, at most 80 terms

TEST(Metrics, OfClassesEqualTheirDefinitions) {
  const auto cases = golden().at("classes");
  ASSERT_EQ(cases.size(), 6);
  for (const auto& c : cases) {
    const auto p = c.at("prediction").get<Values>();
    const auto l = c.at("label").get<Values>();
    EXPECT_NEAR(accuracy(p, l), c.at("accuracy"), kRounding);
    EXPECT_NEAR(f1_of_class(p, l, 1), c.at("f1_binary"), kRounding);
    EXPECT_NEAR(f1_macro(p, l), c.at("f1_macro"), kRounding);
    EXPECT_NEAR(matthews(p, l), c.at("matthews"), kRounding);
  }
}

TEST(Metrics, OfValuesEqualTheirDefinitions) {
  const auto cases = golden().at("values");
  ASSERT_EQ(cases.size(), 6);
  for (const auto& c : cases) {
    const auto p = c.at("prediction").get<Values>();
    const auto l = c.at("label").get<Values>();
    // The offset of 1e6 in one case costs six of sixteen digits.
    EXPECT_NEAR(pearson(p, l), c.at("pearson"), 1e-9);
    EXPECT_NEAR(spearman(p, l), c.at("spearman"), kRounding);
  }
}

TEST(Metrics, ByHand) {
  const Values p{1, 1, 0, 1, 0}, l{1, 0, 0, 1, 1};
  EXPECT_DOUBLE_EQ(accuracy(p, l), 0.6);
  EXPECT_DOUBLE_EQ(f1_of_class(p, l, 1), 2.0 / 3);  // TP 2, FP 1, FN 1
  EXPECT_DOUBLE_EQ(f1_macro(p, l), (2.0 / 3 + 0.5) / 2);
  EXPECT_NEAR(matthews(p, l), (2.0 * 1 - 1 * 1) / 6, kRounding);
  const Values x{1, 2, 3}, y{2, 4, 7}, down{9, 5, 5};
  EXPECT_NEAR(pearson(x, y), 5 / std::sqrt(2 * 38.0 / 3), kRounding);
  EXPECT_DOUBLE_EQ(spearman(x, y), 1);
  EXPECT_NEAR(spearman(x, down), -std::sqrt(0.75), kRounding);  // a tie
}

TEST(Metrics, NotANumberIsNotHidden) {
  const Values x{1, NAN, 3}, y{1, 2, 3};
  EXPECT_TRUE(std::isnan(pearson(x, y)));
  EXPECT_TRUE(std::isnan(spearman(y, x)));
}

}  // namespace
}  // namespace thinwire
