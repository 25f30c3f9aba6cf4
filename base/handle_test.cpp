#include "base/handle.h"

#include <gtest/gtest.h>

#include <utility>
#include <vector>

namespace thinwire {
namespace {

std::vector<int> released;

struct IntTraits {
  using type = int;
  static int null() { return -1; }
  static void release(int value) noexcept { released.push_back(value); }
};
using IntHandle = UniqueHandle<IntTraits>;

class HandleTest : public testing::Test {
 protected:
  void SetUp() override { released.clear(); }
};

TEST_F(HandleTest, ReleasesOnceAtTheEnd) {
  {
    IntHandle empty;
    EXPECT_FALSE(empty);
    IntHandle a(5);
    IntHandle b(std::move(a));
    EXPECT_FALSE(a);
    EXPECT_EQ(b.get(), 5);
    EXPECT_TRUE(released.empty());
  }
  EXPECT_EQ(released, (std::vector{5}));
}

TEST_F(HandleTest, AssignmentReleasesTheOldValue) {
  IntHandle a(1), b(2);
  a = std::move(b);
  EXPECT_EQ(released, (std::vector{1}));
  EXPECT_EQ(a.get(), 2);
  auto& self = a;
  a = std::move(self);
  EXPECT_EQ(a.get(), 2);
  EXPECT_EQ(a.detach(), 2);
  a.reset(3);
  a.reset();
  EXPECT_EQ(released, (std::vector{1, 3}));
}

}  // namespace
}  // namespace thinwire
