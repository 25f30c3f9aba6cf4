// The bodies of the GPU's kernels, run here item by item, against the CPU's own
// kernels.
#include "ops/device_bodies.h"

#include <ATen/ops/zeros.h>
#include <c10/util/BFloat16.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "ops/device_cases.h"
#include "ops/dropout.h"
#include "ops/masked_gradient.h"
#include "ops/optimizer_pass.h"
#include "ops/test_tensors.h"

namespace thinwire {
namespace {

using test::normal;

// Every item of a kernel in turn, the last first.
struct OnHost {
  static void dropout(const DropoutJob& job) {
    for (std::int64_t i = dropout_items(job); i-- > 0;) dropout_item(job, i);
  }
  static void masked_dots(const MaskedDotsJob& job) {
    for (std::int64_t i = job.k; i-- > 0;) {
      DotLines lines;
      if (!dot_lines(job, i, lines)) continue;
      float lanes[kWarp];
      for (int lane = 0; lane < kWarp; ++lane) {
        lanes[lane] = masked_dot_lane(job, lines, lane);
      }
      for (int step = kWarp / 2; step > 0; step /= 2) {
        for (int lane = 0; lane < step; ++lane) {
          lanes[lane] += lanes[lane + step];
        }
      }
      masked_dot_store(job, i, lanes[0]);
    }
  }
  static void write_masked(const MaskedWrite& write, const float* values) {
    for (std::int64_t i = write.count; i-- > 0;) {
      write_item(write, i, values[i]);
    }
  }
  static void adamw(const OptimizerJob& job, const AdamwFactors& f) {
    for (std::int64_t i = job.n; i-- > 0;) adamw_item(job, f, i);
  }
  static void lion(const OptimizerJob& job, const LionFactors& f) {
    for (std::int64_t i = job.n; i-- > 0;) lion_item(job, f, i);
  }
  static void sgd(const OptimizerJob& job, const SgdFactors& f) {
    for (std::int64_t i = job.n; i-- > 0;) sgd_item(job, f, i);
  }
  // The host's memory is the device's.
  static at::Tensor to_device(const at::Tensor& x) { return x.clone(); }
  static at::Tensor to_host(const at::Tensor& x) { return x; }
};

TEST(DeviceBodies, RoundToBf16AsTheCpuDoes) {
  const auto check = [](float value) {
    const c10::BFloat16 expected(value);
    EXPECT_EQ(bf16_bits(value), expected.x) << value;
    if (!std::isnan(value)) {
      EXPECT_EQ(bf16_value(expected.x), static_cast<float>(expected)) << value;
    }
  };
  for (std::uint64_t i = 0; i < 20000; ++i) {
    check(std::bit_cast<float>(static_cast<std::uint32_t>(mix64(i))));
  }
  for (const float value : {0.0f, -0.0f, 1.0f, 3.4e38f}) check(value);
  check(std::numeric_limits<float>::infinity());
  check(std::numeric_limits<float>::quiet_NaN());
  check(std::bit_cast<float>(0x3f808000u));  // ties
  check(std::bit_cast<float>(0x3f818000u));
}

TEST(DeviceBodies, DropoutHasTheCpusBits) {
  test::check_dropout<OnHost>();
  test::check_attention_dropout<OnHost>();
}

TEST(DeviceBodies, MaskedDotsAreTheMaskedGradient) {
  test::check_masked_dots<OnHost>();
}

TEST(DeviceBodies, MaskedWritesHaveTheCpusBits) {
  test::check_masked_write<OnHost>();
}

TEST(DeviceBodies, OptimizersHaveTheCpusBits) {
  test::check_optimizers<OnHost>();
}

}  // namespace
}  // namespace thinwire
