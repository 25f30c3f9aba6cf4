#include "peft/mask_selection.h"

#include <ATen/ops/tensor.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <numeric>

namespace thinwire {
namespace {

using ::testing::ElementsAre;
using Sizes = std::vector<std::int64_t>;

at::Tensor ints(const std::vector<std::int32_t>& v) {
  return at::tensor(v, at::kInt);
}

TEST(MaskSelection, ExactShareDoesNotRoundLikeADouble) {
  EXPECT_EQ(exact_share(0.0008, 108311810), 86649);
  EXPECT_EQ(exact_share(0.29, 100), 29);  // 0.29 * 100 < 29 in floating point
  EXPECT_EQ(exact_share(0.07, 100), 7);
  EXPECT_EQ(exact_share(1, 11135332352), 11135332352);
  EXPECT_EQ(exact_share(1e-9, 999999999), 0);
}

TEST(MaskSelection, QuotasGoByLargestRemainders) {
  // 5/6, 10/6, 0, 5/6, 10/6: 2 in floors; then remainders of 5, 5, 4 and 4.
  EXPECT_THAT(tensor_quotas(Sizes{1, 2, 0, 1, 2}, 5),
              ElementsAre(1, 2, 0, 1, 1));
  EXPECT_THAT(tensor_quotas(Sizes{10, 10, 10}, 10), ElementsAre(4, 3, 3));
  EXPECT_THAT(tensor_quotas(Sizes{3, 4}, 0), ElementsAre(0, 0));
  EXPECT_THAT(tensor_quotas(Sizes{3, 4}, 7), ElementsAre(3, 4));
  // Products beyond 64 bits.
  const Sizes large{5'000'000'000, 5'000'000'001, 1};
  const Sizes quotas = tensor_quotas(large, 7'000'000'000);
  EXPECT_EQ(std::accumulate(quotas.begin(), quotas.end(), std::int64_t{0}),
            7'000'000'000);
  EXPECT_THAT(quotas, ElementsAre(3'500'000'000 - 1, 3'500'000'000, 1));
}

TEST(MaskSelection, SelectsOverAllTensorsOrFromEach) {
  const std::vector<at::Tensor> scores{at::tensor({5.f, 1.f, 9.f, 9.f}),
                                       at::tensor({2.f, 8.f, 2.f, 0.f})};
  const auto select = [&](std::int64_t k, Quota quota, Extreme keep) {
    return select_numbers(scores, k, quota, keep);
  };
  auto chosen = select(3, Quota::kGlobal, Extreme::kLargest);
  EXPECT_TRUE(chosen[0].equal(ints({2, 3})));
  EXPECT_TRUE(chosen[1].equal(ints({1})));
  chosen = select(3, Quota::kGlobal, Extreme::kSmallest);
  EXPECT_TRUE(chosen[0].equal(ints({1})));
  EXPECT_TRUE(chosen[1].equal(ints({0, 3})));
  chosen = select(4, Quota::kTensor, Extreme::kLargest);
  EXPECT_TRUE(chosen[0].equal(ints({2, 3})));
  EXPECT_TRUE(chosen[1].equal(ints({0, 1})));
}

TEST(MaskSelection, SpreadsEvenly) {
  const auto even = spread_numbers(Sizes{4, 0, 8}, 3, Quota::kGlobal);
  EXPECT_TRUE(even[0].equal(ints({2})));
  EXPECT_EQ(even[1].numel(), 0);
  EXPECT_TRUE(even[2].equal(ints({2, 6})));
  const auto each = spread_numbers(Sizes{4, 8}, 6, Quota::kTensor);
  EXPECT_TRUE(each[0].equal(ints({1, 3})));
  EXPECT_TRUE(each[1].equal(ints({1, 3, 5, 7})));
}

TEST(MaskSelection, DealsByScore) {
  const std::vector<at::Tensor> index{ints({0, 2}), ints({}), ints({1, 3, 4})};
  const std::vector<at::Tensor> scores{at::tensor({3.f, 0.f, 5.f}),
                                       at::tensor({0.f}),
                                       at::tensor({0.f, 4.f, 0.f, 5.f, 1.f})};
  // 5 (0), 5 (2), 4 (2), 3 (0), 1 (2) in turn.
  auto owners = deal_numbers(index, scores, 2, Extreme::kLargest);
  EXPECT_TRUE(owners[0].equal(ints({1, 0})));
  EXPECT_EQ(owners[1].numel(), 0);
  EXPECT_TRUE(owners[2].equal(ints({0, 1, 0})));
  owners = deal_numbers(index, scores, 3, Extreme::kSmallest);
  EXPECT_TRUE(owners[0].equal(ints({1, 0})));
  EXPECT_TRUE(owners[2].equal(ints({2, 1, 0})));
  owners = deal_numbers(index, {}, 2, Extreme::kSmallest);  // by position
  EXPECT_TRUE(owners[0].equal(ints({0, 1})));
  EXPECT_TRUE(owners[2].equal(ints({0, 1, 0})));
}

}  // namespace
}  // namespace thinwire
