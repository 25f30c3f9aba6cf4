#include "dist/checkpoint.h"

#include <ATen/ops/arange.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <filesystem>
#include <fstream>

#include "base/error.h"
#include "base/failpoint.h"
#include "dist/durable.h"
#include "dist/testing.h"

namespace thinwire {
namespace {

namespace fs = std::filesystem;

constexpr Digest kBackbone = {1, 2};

Delta make_delta(float start) {
  DeltaBuilder builder;
  DeltaEntry e;
  e.name = "x";
  e.shape = {5};
  e.group = builder.group({.name = "default"});
  builder.add(e, at::arange(start, start + 5, at::kFloat));
  return builder.build();
}

void save(const std::string& folder, int step) {
  const auto at = static_cast<float>(step);
  save_checkpoint(folder, make_delta(at), kBackbone,
                  {{"m", at::arange(at, at + 8, at::kFloat)}},
                  {{"step", step}});
}

int step_of(const std::string& folder) {
  const Checkpoint c = load_checkpoint(folder);
  const int step = c.state.at("step").get<int>();
  EXPECT_EQ(c.delta.values()[0].item<float>(), static_cast<float>(step));
  EXPECT_EQ(c.optimizer.at(0).first, "m");
  EXPECT_EQ(c.optimizer.at(0).second[7].item<float>(),
            static_cast<float>(step + 7));
  EXPECT_EQ(c.backbone, kBackbone);
  return step;
}

// What is directly under `folder` and not hidden.
std::vector<std::string> visible(const std::string& folder) {
  std::vector<std::string> names;
  for (const auto& item : fs::directory_iterator(folder)) {
    names.push_back(item.path().filename().string());
  }
  std::ranges::sort(names);
  return names;
}

std::int64_t steps_of_one_save() {
  const TempFolder folder;
  set_write_faults(0, 0);
  save(folder / "step-1", 1);
  const std::int64_t steps = write_steps();
  EXPECT_GT(steps, 12);
  return steps;
}

TEST(Checkpoint, RoundTrip) {
  const TempFolder folder;
  save(folder / "checkpoints/step-7", 7);
  EXPECT_EQ(step_of(folder / "checkpoints/step-7"), 7);
  EXPECT_EQ(visible(folder / "checkpoints"),
            std::vector<std::string>{"step-7"});
}

TEST(Checkpoint, ReplacesAFolderThatIsThere) {
  const TempFolder folder;
  save(folder / "best", 1);
  save(folder / "best", 2);
  EXPECT_EQ(step_of(folder / "best"), 2);
  EXPECT_EQ(visible(folder.path()), std::vector<std::string>{"best"});
}

// A disk that is full from the Nth write, fsync or rename on.
TEST(Checkpoint, AFullDiskAtAnyStepLeavesTheOldOnes) {
  const std::int64_t steps = steps_of_one_save();
  for (std::int64_t n = 1; n <= steps; ++n) {
    const TempFolder folder;
    set_write_faults(0, 0);
    save(folder / "step-1", 1);
    set_write_faults(n, 0);
    try {
      save(folder / "step-2", 2);
      // Only the last fsync, of the parent, comes after the rename.
      ADD_FAILURE() << "write step " << n << " failed unnoticed";
    } catch (const IoError& e) {
      EXPECT_THAT(e.what(), ::testing::HasSubstr("No space left"));
    }
    set_write_faults(0, 0);
    const auto newest = newest_checkpoint(folder.path(), nullptr);
    ASSERT_TRUE(newest);
    EXPECT_GE(step_of(*newest), 1) << n;
    EXPECT_EQ(step_of(folder / "step-1"), 1) << n;
    for (const std::string& name : visible(folder.path())) {
      EXPECT_TRUE(name.starts_with("step-")) << name << " left at " << n;
    }
  }
}

TEST(Checkpoint, AKillAtAnyStepLeavesTheOldOnes) {
  const std::int64_t steps = steps_of_one_save();
  for (std::int64_t n = 1; n <= steps; ++n) {
    const TempFolder folder;
    set_write_faults(0, 0);
    save(folder / "step-1", 1);
    save(folder / "best", 1);
    const pid_t child = ::fork();
    if (child == 0) {
      set_write_faults(0, n);
      save(folder / "step-2", 2);
      save(folder / "best", 2);
      ::_exit(9);
    }
    int status = 0;
    ASSERT_EQ(::waitpid(child, &status, 0), child);
    ASSERT_TRUE(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL) << n;
    sweep_temporaries(folder.path());
    const auto newest = newest_checkpoint(folder.path(), nullptr);
    ASSERT_TRUE(newest);
    EXPECT_GE(step_of(*newest), 1) << n;
    EXPECT_EQ(step_of(folder / "step-1"), 1) << n;
    EXPECT_EQ(step_of(folder / "best"), 1) << n;
    for (const std::string& name : visible(folder.path())) {
      EXPECT_FALSE(name.starts_with(".")) << name << " left at " << n;
    }
  }
}

TEST(Checkpoint, AKillWhileBestIsReplacedLeavesOneOfTheTwo) {
  const std::int64_t steps = steps_of_one_save();
  for (std::int64_t n = steps - 3; n <= steps; ++n) {
    const TempFolder folder;
    set_write_faults(0, 0);
    save(folder / "best", 1);
    const pid_t child = ::fork();
    if (child == 0) {
      set_write_faults(0, n);
      save(folder / "best", 2);
      ::_exit(9);
    }
    int status = 0;
    ASSERT_EQ(::waitpid(child, &status, 0), child);
    ASSERT_TRUE(WIFSIGNALED(status)) << n;
    sweep_temporaries(folder.path());
    EXPECT_GE(step_of(folder / "best"), 1) << n;
    EXPECT_EQ(visible(folder.path()), std::vector<std::string>{"best"});
  }
}

TEST(Checkpoint, DamagedOnesArePassedOverWithTheReason) {
  const TempFolder folder;
  save(folder / "step-5", 5);
  save(folder / "step-10", 10);
  save(folder / "step-20", 20);
  {
    std::fstream f(folder / "step-20/delta.safetensors",
                   std::ios::in | std::ios::out | std::ios::binary);
    f.seekp(-1, std::ios::end);
    f.put('\x7f');
  }
  fs::resize_file(folder / "step-10/optimizer.safetensors", 40);
  std::vector<std::string> skipped;
  const auto newest = newest_checkpoint(folder.path(), &skipped);
  ASSERT_TRUE(newest);
  EXPECT_EQ(step_of(*newest), 5);
  ASSERT_EQ(skipped.size(), 2u);
  EXPECT_THAT(skipped[0], ::testing::HasSubstr("step-20/delta.safetensors"));
  EXPECT_THAT(skipped[0], ::testing::HasSubstr("checksum"));
  EXPECT_THAT(skipped[1], ::testing::HasSubstr("has 40 bytes"));
  EXPECT_THROW(load_checkpoint(folder / "step-20"), IoError);
}

TEST(Checkpoint, AFolderWithoutManifestIsNone) {
  const TempFolder folder;
  fs::create_directory(folder / "step-3");
  std::vector<std::string> skipped;
  EXPECT_FALSE(newest_checkpoint(folder.path(), &skipped));
  EXPECT_THAT(skipped, ::testing::SizeIs(1));
  EXPECT_FALSE(newest_checkpoint(folder / "nothing", nullptr));
}

TEST(Checkpoint, PruningKeepsTheNewest) {
  const TempFolder folder;
  for (const int step : {2, 100, 9}) {
    save(folder / ("step-" + std::to_string(step)), step);
  }
  fs::create_directories(folder / ".tmp-step-101");
  prune_checkpoints(folder.path(), 2);
  EXPECT_EQ(visible(folder.path()),
            (std::vector<std::string>{"step-100", "step-9"}));
}

TEST(Checkpoint, AnUnwritableFolderIsNamed) {
  const TempFolder folder;
  write_file(folder / "file", "x");
  try {
    save(folder / "file/step-1", 1);
    FAIL() << "written";
  } catch (const IoError& e) {
    EXPECT_THAT(e.what(), ::testing::HasSubstr("file"));
  }
}

}  // namespace
}  // namespace thinwire
