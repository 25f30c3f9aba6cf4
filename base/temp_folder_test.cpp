#include "base/temp_folder.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>

namespace thinwire {
namespace {

TEST(TempFolder, EachHasItsOwnWhichGoesWithIt) {
  std::string gone;
  {
    const TempFolder a;
    const TempFolder b;
    EXPECT_NE(a.path(), b.path());
    std::ofstream(a / "file") << "x";
    EXPECT_TRUE(std::filesystem::exists(a.path() + "/file"));
    EXPECT_FALSE(std::filesystem::exists(b / "file"));
    gone = a.path();
  }
  EXPECT_FALSE(std::filesystem::exists(gone));
}

}  // namespace
}  // namespace thinwire
