// What the program writes: TensorBoard frames, text, tables, metrics.jsonl.
#include <gtest/gtest.h>
#include <unistd.h>

#include <cstring>
#include <filesystem>
#include <fstream>
#include <limits>
#include <sstream>
#include <string>

#include "launch/metrics_log.h"
#include "launch/progress.h"
#include "launch/report.h"
#include "launch/tensorboard.h"

namespace thinwire {
namespace {

class Output : public testing::Test {
 protected:
  void SetUp() override { std::filesystem::create_directories(folder_); }
  void TearDown() override { std::filesystem::remove_all(folder_); }

  std::string read(const std::string& name) const {
    std::ifstream file(folder_ + "/" + name, std::ios::binary);
    std::ostringstream text;
    text << file.rdbuf();
    return text.str();
  }

  const std::string folder_ =
      testing::TempDir() + "/output_" + std::to_string(getpid());
};

TEST(Crc32c, KnownAnswers) {  // RFC 3720, B.4
  EXPECT_EQ(crc32c(std::string(32, '\0')), 0x8a9136aau);
  EXPECT_EQ(crc32c(std::string(32, '\xff')), 0x62a8ab43u);
  EXPECT_EQ(crc32c("123456789"), 0xe3069283u);
}

TEST_F(Output, TensorboardFrames) {
  {
    TensorboardWriter writer(folder_);
    writer.scalar("train/loss", 300, 0.5);
  }
  std::string path;
  for (const auto& item : std::filesystem::directory_iterator(folder_)) {
    path = item.path().filename().string();
  }
  const std::string bytes = read(path);
  std::vector<std::string> events;
  for (std::size_t at = 0; at < bytes.size();) {
    std::uint64_t length = 0;
    std::memcpy(&length, bytes.data() + at, 8);
    ASSERT_LE(at + 16 + length, bytes.size());
    std::uint32_t crc = 0;
    std::memcpy(&crc, bytes.data() + at + 12 + length, 4);
    const std::string event = bytes.substr(at + 12, length);
    const std::uint32_t plain = crc32c(event);
    EXPECT_EQ(crc, ((plain >> 15) | (plain << 17)) + 0xa282ead8u);
    events.push_back(event);
    at += 16 + length;
  }
  ASSERT_EQ(events.size(), 2u);
  EXPECT_NE(events[0].find("brain.Event:2"), std::string::npos);
  // After the wall time: step = 300 as a varint, then the summary.
  EXPECT_EQ(events[1].substr(9, 3), "\x10\xac\x02");
  float value = 0;
  std::memcpy(&value, events[1].data() + events[1].size() - 4, 4);
  EXPECT_EQ(value, 0.5f);
  EXPECT_NE(events[1].find("train/loss"), std::string::npos);
}

TEST_F(Output, MetricsLogKeepsWhatCameBeforeTheStep) {
  {
    MetricsLog log(folder_, 0);
    for (int step = 1; step <= 4; ++step) {
      EXPECT_TRUE(log.write({{"event", "step"}, {"step", step}}));
    }
    EXPECT_TRUE(log.write({{"event", "summary"}, {"steps", 4}}));
  }
  std::ofstream(folder_ + "/metrics.jsonl", std::ios::app)
      << R"({"event":"step","st)";
  {
    MetricsLog log(folder_, 2);
    EXPECT_TRUE(log.write({{"event", "step"}, {"step", 3}}));
  }
  EXPECT_EQ(read("metrics.jsonl"),
            "{\"event\":\"step\",\"step\":1}\n{\"event\":\"step\",\"step\":2}\n"
            "{\"event\":\"step\",\"step\":3}\n");
  { MetricsLog log(folder_, 0); }
  EXPECT_EQ(read("metrics.jsonl"), "");
}

TEST(MetricsLine, NumbersRoundTrip) {
  StepRecord record;
  record.step = 3;
  record.loss = 0.1 + 0.2;
  record.grad_norm = std::numeric_limits<double>::quiet_NaN();
  const auto json = nlohmann::json::parse(to_json(record).dump());
  EXPECT_EQ(json.at("loss").get<double>(), record.loss);
  EXPECT_TRUE(json.at("grad_norm").is_null());
}

TEST(Human, BytesSecondsCommas) {
  EXPECT_EQ(human_bytes(0), "0 B");
  EXPECT_EQ(human_bytes(999), "999 B");
  EXPECT_EQ(human_bytes(1230), "1.23 kB");
  EXPECT_EQ(human_bytes(4.5e9), "4.5 GB");
  EXPECT_EQ(human_seconds(59.4), "59 s");
  EXPECT_EQ(human_seconds(200), "3 min 20 s");
  EXPECT_EQ(human_seconds(7500), "2 h 05 min");
  EXPECT_EQ(with_commas(0), "0");
  EXPECT_EQ(with_commas(999), "999");
  EXPECT_EQ(with_commas(1000), "1,000");
  EXPECT_EQ(with_commas(-22713216), "-22,713,216");
}

TEST(Table, PadsByCharactersNotBytes) {
  EXPECT_EQ(format_table({{"name", "n"}, {"größe", "12"}, {"x", "3"}}),
            "name   n\ngröße  12\nx       3\n");
}

}  // namespace
}  // namespace thinwire
