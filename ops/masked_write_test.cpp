#include "ops/masked_write.h"

#include <ATen/ops/arange.h>
#include <ATen/ops/tensor.h>
#include <gtest/gtest.h>

#include <limits>
#include <vector>

#include "base/error.h"
#include "ops/test_tensors.h"

namespace thinwire {
namespace {

using test::normal;

// Three weights over one vector, with gaps, written range by range.
TEST(MaskedWrite, RangesOfTheVectorReachTheirWeights) {
  for (const auto type : {at::kFloat, at::kBFloat16}) {
    for (const auto places : {at::kInt, at::kLong}) {
      const at::Tensor values = normal("v", {40});
      std::vector<at::Tensor> weights, index, want;
      std::vector<MaskedWrite> writes;
      std::int64_t begin = 3;
      for (const std::int64_t count : {5, 0, 11, 16}) {
        index.push_back(at::arange(1, 1 + 3 * count, 3, at::kLong).to(places));
        weights.push_back(normal("w", {10, 5}).to(type));
        want.push_back(weights.back().flatten().index_copy(
            0, index.back().to(at::kLong),
            values.narrow(0, begin, count).to(type)));
        writes.push_back(masked_write(weights.back(), index.back(), begin));
        begin += count + 1;
      }
      const std::vector<std::int64_t> cuts = {0, 2, 4, 7, 8, 20, 21, 30, 40};
      for (std::size_t i = 0; i + 1 < cuts.size(); ++i) {
        prefetch_range(writes, cuts[i], cuts[i + 1]);
        write_range(writes, values.const_data_ptr<float>(), cuts[i],
                    cuts[i + 1]);
      }
      for (std::size_t i = 0; i < want.size(); ++i) {
        EXPECT_TRUE(weights[i].flatten().equal(want[i])) << i;
      }
    }
  }
}

TEST(MaskedWrite, LeavesTheRestOfARange) {
  const at::Tensor values = normal("v", {8});
  const at::Tensor index = at::arange(8, at::kInt);
  at::Tensor weight = normal("w", {8});
  const MaskedWrite writes[] = {masked_write(weight, index, 0)};
  write_range(writes, values.const_data_ptr<float>(), 2, 5);
  const at::Tensor was = normal("w", {8});
  EXPECT_TRUE(weight.narrow(0, 2, 3).equal(values.narrow(0, 2, 3)));
  EXPECT_TRUE(weight.narrow(0, 0, 2).equal(was.narrow(0, 0, 2)));
  EXPECT_TRUE(weight.narrow(0, 5, 3).equal(was.narrow(0, 5, 3)));
}

// Halfway cases go to the even neighbour; what is beyond becomes infinite.
TEST(MaskedWrite, RoundsToNearestEven) {
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  const float ulp = 0x1p-7f;  // of a bf16 in [1, 2)
  const at::Tensor values =
      at::tensor({1 + ulp / 2, 1 + 3 * ulp / 2, 1 + 0.51f * ulp, -0.0f,
                  std::numeric_limits<float>::max(), kInfinity});
  at::Tensor weight = normal("w", {6}).to(at::kBFloat16);
  const at::Tensor index = at::arange(6, at::kInt);
  const MaskedWrite writes[] = {masked_write(weight, index, 0)};
  write_range(writes, values.const_data_ptr<float>(), 0, 6);
  EXPECT_TRUE(weight.to(at::kFloat)
                  .equal(at::tensor({1.0f, 1 + 2 * ulp, 1 + ulp, -0.0f,
                                     kInfinity, kInfinity})));
}

TEST(MaskedWrite, OtherTypesAreABug) {
  EXPECT_THROW(
      masked_write(normal("w", {2}).to(at::kHalf), at::arange(1, at::kInt), 0),
      InternalError);
}

}  // namespace
}  // namespace thinwire
