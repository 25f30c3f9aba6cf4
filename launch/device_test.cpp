#include "launch/device.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <string>

#include "base/error.h"
#include "comm/communicator.h"
#include "comm/cuda_library.h"
#include "comm/threads.h"

namespace thinwire {
namespace {

using testing::HasSubstr;

TEST(Device, TheCpuNeedsNothing) {
  run_ranks(2, [](Communicator& comm) {
    EXPECT_TRUE(open_device("cpu", comm).is_cpu());
  });
}

// More ranks than any machine has GPUs: refused whatever is installed, by all
// ranks alike.
TEST(Device, EveryRankSaysWhyThereIsNoGpuForIt) {
  std::atomic<int> refused{0};
  constexpr int kRanks = 17;
  run_ranks(kRanks, [&](Communicator& comm) {
    try {
      open_device("cuda", comm);
    } catch (const UsageError& error) {
      EXPECT_THAT(error.what(), HasSubstr("GPU"));
      ++refused;
    }
  });
  EXPECT_EQ(refused, kRanks);
}

TEST(Device, OneRankWithoutAGpuIsRefused) {
  if (describe_gpus().find("none") != 0) return;  // docs/gpu.md: run there
  run_ranks(1, [](Communicator& comm) {
    try {
      open_device("cuda", comm);
      ADD_FAILURE() << "no GPU, and none was missed";
    } catch (const UsageError& error) {
      const std::string text = error.what();
      EXPECT_TRUE(text.find("no GPU") != std::string::npos) << text;
      EXPECT_EQ(text.find('\n'), std::string::npos);
    }
  });
}

// With or without a GPU, and whatever of it is installed.
TEST(Device, LibTorchsCudaHalfLoadsOrSaysWhatIsMissing) {
  try {
    load_torch_cuda();
  } catch (const UsageError& error) {
    const std::string text = error.what();
    EXPECT_THAT(text, HasSubstr("device: cuda, but "));
    EXPECT_THAT(text, HasSubstr("libtorch_cuda.so"));
    EXPECT_EQ(text.find('\n'), std::string::npos);
  }
}

}  // namespace
}  // namespace thinwire
