#include "base/error.h"

#include <gtest/gtest.h>

#include <string>

namespace thinwire {
namespace {

TEST(Error, FailFormatsAndKeepsTheType) {
  try {
    fail<UsageError>("r must be in [1, {}], got {}", 768, 0);
  } catch (const UsageError& error) {
    EXPECT_STREQ(error.what(), "r must be in [1, 768], got 0");
    return;
  }
  FAIL() << "UsageError was not thrown";
}

TEST(Error, AssertCarriesPlaceConditionAndValues) {
  const int k = 3;
  THINWIRE_ASSERT(k == 3, "k = {}", k);
  try {
    THINWIRE_ASSERT(k == 4, "k = {}", k);
    FAIL() << "no error";
  } catch (const InternalError& error) {
    const std::string text = error.what();
    EXPECT_NE(text.find("error_test.cpp:"), std::string::npos) << text;
    EXPECT_NE(text.find("k == 4: k = 3"), std::string::npos) << text;
  }
}

}  // namespace
}  // namespace thinwire
