#include "base/nearest.h"

#include <gtest/gtest.h>

namespace thinwire {
namespace {

TEST(Nearest, FewestEditsWin) {
  const std::vector<std::string> known{"full", "head", "lora", "fish_mask"};
  EXPECT_EQ(nearest("lroa", known), "lora");  // a swap is one edit
  EXPECT_EQ(nearest("LORA", known), "lora");
  EXPECT_EQ(nearest("fishmask", known), "fish_mask");
  EXPECT_EQ(nearest("", known), "full");
  EXPECT_EQ(nearest("x", {}), "");
}

TEST(Nearest, FirstOfEquals) { EXPECT_EQ(nearest("b", {"a", "c"}), "a"); }

TEST(Nearest, ListPutsTheNearestFirst) {
  EXPECT_EQ(list_nearest_first("lroa", {"full", "lora", "head"}),
            "lora, full, head");
  EXPECT_EQ(list_nearest_first("x", {}), "");
}

}  // namespace
}  // namespace thinwire
