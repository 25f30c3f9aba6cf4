// What a cache of features is said to take, against one that was filled.
#include "launch/estimate/features.h"

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>

#include "base/temp_folder.h"
#include "comm/communicator.h"
#include "dist/testing.h"

namespace thinwire {
namespace {

using ::testing::HasSubstr;

class FeaturesOfARun : public ::testing::Test {
 protected:
  std::optional<FeaturesEstimate> estimate(const std::string& peft,
                                           bool data = true, bool disk = true) {
    std::ofstream(folder_ / "config.json") << trial::t5_config(0.1);
    std::ofstream(folder_ / "run.yaml")
        << "model: {config: " << folder_ / "config.json"
        << "}\ntask: {kind: text_to_text}\ndata: {batch_size: 5}\npeft:\n  - "
        << peft << "\ntrain: {steps: 30, threads: 1}\n"
        << (disk ? fmt::format("cache: {{path: {}}}\n",
                               folder_ / "deep/down/cache")
                 : "");
    OpenRun run = open_run(load_run_config(folder_ / "run.yaml", {}),
                           Need::kNothing, Need::kNothing, *comm_);
    if (data) run.train = trial::make_folder(60, true);
    return estimate_features(run, foresee_delta(run, "", 0), 1e9);
  }

  TempFolder folder_;
  std::unique_ptr<Communicator> comm_ = make_communicator("self");
};

TEST_F(FeaturesOfARun, AreForetold) {
  const auto e = estimate("{method: lst, reduction_factor: 2}");
  ASSERT_TRUE(e);
  EXPECT_EQ(e->why_not, "");
  EXPECT_EQ(e->samples, 60);
  EXPECT_DOUBLE_EQ(e->passes, 2.5);
  std::int64_t numbers = 0;
  for (const Sample& s : trial::make_folder(60, true)->read(0, 60)) {
    numbers += 16 * (3 * std::ssize(s.input) + 2 * std::ssize(s.target));
  }
  EXPECT_GT(e->disk_bytes, 2 * numbers);
  EXPECT_LT(e->disk_bytes, 2 * numbers + 60 * 24 + 16 * 3100);
  EXPECT_GT(e->make_seconds, 0);
  ASSERT_TRUE(e->disk);
  EXPECT_GT(e->disk->free_bytes, e->disk_bytes);
  EXPECT_EQ(e->disk->folder, folder_.path());
  EXPECT_GT(e->disk->write_seconds, 0);
  EXPECT_GT(e->disk->read_seconds, 0);
  EXPECT_DOUBLE_EQ(e->without(), 150 * e->make_seconds);
  EXPECT_DOUBLE_EQ(e->with(), 60 * (e->make_seconds + e->disk->write_seconds) +
                                  150 * e->disk->read_seconds);
  EXPECT_THAT(describe(*e), HasSubstr("features of 60 samples: "));
  // Nothing is left of what was timed.
  for (const auto& item : std::filesystem::directory_iterator(folder_.path())) {
    EXPECT_TRUE(item.path().filename() == "config.json" ||
                item.path().filename() == "run.yaml")
        << item.path();
  }
}

TEST_F(FeaturesOfARun, NothingIsWrittenWhereNoCacheIsNamed) {
  const auto e = estimate("{method: lst, reduction_factor: 2}", true, false);
  ASSERT_TRUE(e);
  EXPECT_GT(e->make_seconds, 0);
  EXPECT_FALSE(e->disk);
  EXPECT_THAT(describe(*e), HasSubstr("set cache.path"));
}

TEST_F(FeaturesOfARun, AreNoneWithoutANetworkOrData) {
  EXPECT_FALSE(estimate("{method: lora, r: 2, target_modules: [q]}"));
  EXPECT_FALSE(estimate("{method: lst, reduction_factor: 2}", false));
}

TEST_F(FeaturesOfARun, WhyThereIsNoCacheIsSaid) {
  const auto e =
      estimate("{method: lst, reduction_factor: 2, frozen_dropout: true}");
  ASSERT_TRUE(e);
  EXPECT_THAT(describe(*e), HasSubstr("no cache: the backbone drops out"));
}

}  // namespace
}  // namespace thinwire
