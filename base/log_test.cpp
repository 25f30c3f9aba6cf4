#include "base/log.h"

#include <gtest/gtest.h>
#include <spdlog/spdlog.h>

#include <fstream>
#include <sstream>

#include "base/error.h"
#include "base/temp_folder.h"

namespace thinwire {
namespace {

// Puts spdlog's own logger back, so that tests do not see each other's.
class LogTest : public testing::Test {
 protected:
  void TearDown() override { spdlog::set_default_logger(before_); }
  std::shared_ptr<spdlog::logger> before_ = spdlog::default_logger();
};

TEST_F(LogTest, FileGetsRankAndText) {
  const TempFolder folder;
  const std::string path = folder / "rank3.log";
  init_log(3, path);
  spdlog::debug("not this");
  spdlog::info("k = {}", 7);
  spdlog::default_logger()->flush();
  log_to_file("quietly");
  std::ifstream in(path);
  std::stringstream text;
  text << in.rdbuf();
  EXPECT_NE(text.str().find(" [rank 3] k = 7\n"), std::string::npos)
      << text.str();
  EXPECT_NE(text.str().find(" [rank 3] quietly\n"), std::string::npos)
      << text.str();
  EXPECT_EQ(text.str().find("not this"), std::string::npos);
}

TEST_F(LogTest, OtherRanksKeepInfoOffTheConsole) {
  init_log(1, "");
  testing::internal::CaptureStderr();
  spdlog::info("quiet");
  spdlog::warn("loud");
  spdlog::default_logger()->flush();
  const std::string text = testing::internal::GetCapturedStderr();
  EXPECT_EQ(text.find("quiet"), std::string::npos);
  EXPECT_NE(text.find("[rank 1] loud"), std::string::npos) << text;
}

TEST_F(LogTest, UnwritableFileIsNamed) {
  try {
    init_log(0, "/proc/no/such/log.txt");
    FAIL() << "no error";
  } catch (const IoError& error) {
    EXPECT_NE(std::string(error.what()).find("/proc/no/such/log.txt"),
              std::string::npos);
  }
}

}  // namespace
}  // namespace thinwire
