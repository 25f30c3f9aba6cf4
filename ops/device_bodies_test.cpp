// The bodies of the GPU's kernels, run here item by item, against the CPU's own
// kernels.
#include "ops/device_bodies.h"

#include <ATen/ops/zeros.h>
#include <c10/util/BFloat16.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "ops/device_cases.h"
#include "ops/device_on_host.h"
#include "ops/dropout.h"
#include "ops/fake_device.h"
#include "ops/masked_gradient.h"
#include "ops/masked_parameter.h"
#include "ops/optimizer_pass.h"
#include "ops/reference.h"
#include "ops/test_tensors.h"

namespace thinwire {
namespace {

using test::largest_difference;
using test::normal;
using test::OnHost;

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

// The ops' own way to the table, on a device whose memory is the CPU's.
TEST(DeviceKernels, AreReachedByTheOps) {
  const test::UseKernelsOnHost kernels;
  const at::Device device = fake::fake_device();
  const Layout layout = make_layout({3, 1, 5}, {7, 9, 1ull << 33});
  const DropoutKey key{.seed = 5, .step = 3, .site = 77};
  const at::Tensor x = normal("x", {9, 50}), dy = normal("dy", {9, 40});
  EXPECT_TRUE(at::equal(dropout(x.to(device), 0.3, key, layout).cpu(),
                        dropout(x, 0.3, key, layout)));
  EXPECT_TRUE(at::equal(
      dropout_pooled(x.narrow(0, 0, 3).to(device), 0.3, key, layout).cpu(),
      dropout_pooled(x.narrow(0, 0, 3), 0.3, key, layout)));
  const at::Tensor weights = normal("a", {3, 2, 5, 7});
  EXPECT_TRUE(
      at::equal(dropout_attention(weights.to(device), 0.3, key, layout).cpu(),
                dropout_attention(weights, 0.3, key, layout)));

  const at::Tensor index = test::int64s({0, 3, 49, 50, 700, 999, 1999});
  const MaskPlan plan = make_mask_plan(index, 40, 50);
  for (const auto type : {at::kFloat, at::kBFloat16}) {
    at::Tensor here = normal("g", {7}), there = here.to(device);
    masked_gradient(here, plan, x.to(type), dy.to(type));
    masked_gradient(there, plan, x.to(type).to(device), dy.to(type).to(device),
                    {.path = MaskPath::kSampled});
    EXPECT_LT(largest_difference(here, there.cpu()), 1e-4);

    const at::Tensor weight = normal("w", {40, 50}).to(type);
    const at::Tensor moved = weight.to(device);
    write_masked(moved, normal("v", {7}), index);
    write_masked(weight, normal("v", {7}), index);
    EXPECT_TRUE(at::equal(moved.cpu(), weight));
  }
}

TEST(DeviceMaskPath, FewPositionsAreSampledAndManyMultiplied) {
  const auto plan_of = [](std::int64_t step) {
    std::vector<std::int64_t> at;
    for (std::int64_t i = 0; i < 1024 * 512; i += step) at.push_back(i);
    return make_mask_plan(test::int64s(at), 512, 1024);
  };
  using enum MaskPath;
  EXPECT_EQ(choose_device_mask_path(plan_of(1 << 30), 4096, true), kSampled);
  EXPECT_EQ(choose_device_mask_path(plan_of(200), 4096, false), kSampled);
  EXPECT_EQ(choose_device_mask_path(plan_of(10), 4096, false), kRows);
  EXPECT_EQ(choose_device_mask_path(plan_of(10), 4096, true), kRows);
}

}  // namespace
}  // namespace thinwire
