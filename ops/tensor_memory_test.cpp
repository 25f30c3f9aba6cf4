#define TORCH_ASSERT_ONLY_METHOD_OPERATORS
#include "ops/tensor_memory.h"

#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/from_blob.h>
#include <gtest/gtest.h>

#include <thread>
#include <vector>

namespace thinwire {
namespace {

class TensorMemory : public testing::Test {
 protected:
  void SetUp() override {
    count_tensor_memory();
    reset_peak_tensor_bytes();
    before_ = live_tensor_bytes();
  }
  std::int64_t live() const { return live_tensor_bytes() - before_; }
  std::int64_t peak() const { return peak_tensor_bytes() - before_; }

 private:
  std::int64_t before_ = 0;
};

TEST_F(TensorMemory, CountsBytesAskedForAndGivesThemBack) {
  at::Tensor a = at::empty({1000}, at::kFloat);
  EXPECT_EQ(live(), 4000);
  {
    const at::Tensor b = at::empty({10, 10}, at::kDouble);
    EXPECT_EQ(live(), 4800);
    const at::Tensor view = b.t();  // shares the storage
    EXPECT_EQ(live(), 4800);
  }
  EXPECT_EQ(live(), 4000);
  EXPECT_EQ(peak(), 4800);
  reset_peak_tensor_bytes();
  EXPECT_EQ(peak(), 4000);
  a.resize_({3000});
  EXPECT_EQ(live(), 12000);
  a.reset();
  EXPECT_EQ(live(), 0);
}

TEST_F(TensorMemory, MemoryOfOthersIsNotCounted) {
  std::vector<float> own(100);
  const at::Tensor wrapped = at::from_blob(own.data(), {100}, at::kFloat);
  EXPECT_EQ(live(), 0);
  const at::Tensor copy = wrapped.clone();
  EXPECT_EQ(live(), 400);
}

TEST_F(TensorMemory, ThreadsAddUp) {
  constexpr int kThreads = 4, kTimes = 2000;
  std::vector<std::thread> threads;
  for (int t = 0; t < kThreads; ++t) {
    threads.emplace_back([] {
      for (int i = 0; i < kTimes; ++i) at::empty({64}, at::kFloat);
    });
  }
  for (std::thread& t : threads) t.join();
  EXPECT_EQ(live(), 0);
  EXPECT_GE(peak(), 256);
  EXPECT_LE(peak(), kThreads * 256);
}

}  // namespace
}  // namespace thinwire
