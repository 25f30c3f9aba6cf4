#include <ATen/ops/arange.h>
#include <gtest/gtest.h>

#include "models/backbone.h"
#include "models/relative_bias.h"
#include "models/test_models.h"

namespace thinwire {
namespace {

TEST(T5, TheHeadIsTheEmbeddingUnlessTheFileHoldsAnother) {
  const auto tied = load_backbone(golden_path("t5_tied"));
  EXPECT_EQ(tied->parameters().find("lm_head.weight"), -1);
  EXPECT_TRUE(tied->config().scale_decoder_outputs);
  const auto untied = load_backbone(golden_path("t5_gated"));
  EXPECT_GE(untied->parameters().find("lm_head.weight"), 0);
  EXPECT_FALSE(untied->config().scale_decoder_outputs);
}

// Powers of two sit on the buckets' edges. By hand for 8 buckets, distance 16:
// 4 a side: 0, 1 | 2 … up to sqrt(2 * 16) = 5.65 | beyond.
TEST(RelativeBuckets, FollowThePaper) {
  const at::Tensor weight = at::arange(8, at::kFloat).unsqueeze(1);
  const Layout layout = make_layout({9}, {0});
  const at::Tensor both = RelativeBuckets(8, 16, true).bias(weight, layout);
  ASSERT_EQ(both.sizes(), at::IntArrayRef({1, 9, 9}));
  const std::vector<float> first = {0, 5, 6, 6, 6, 6, 7, 7, 7};
  const std::vector<float> last = {3, 3, 3, 2, 2, 2, 2, 1, 0};
  const at::Tensor past = RelativeBuckets(8, 16, false).bias(weight, layout);
  // 8 for the past: 0 … 3 | from 4 by factors of sqrt(2): 5.66, 8, 11.3.
  const std::vector<float> causal = {6, 5, 5, 4, 4, 3, 2, 1, 0};
  for (int j = 0; j < 9; ++j) {
    const auto at = [j](const at::Tensor& t, int i) {
      return t[0][i][j].item<float>();
    };
    EXPECT_EQ(at(both, 0), first[static_cast<std::size_t>(j)]) << j;
    EXPECT_EQ(at(both, 8), last[static_cast<std::size_t>(j)]) << j;
    EXPECT_EQ(at(past, 0), 0) << j;
    EXPECT_EQ(at(past, 8), causal[static_cast<std::size_t>(j)]) << j;
  }
}

TEST(RelativeBuckets, HolesKeepTheirDistance) {
  const at::Tensor weight = at::arange(16, at::kFloat).reshape({8, 2});
  RelativeBuckets buckets(8, 16, true);
  const at::Tensor whole = buckets.bias(weight, make_layout({9}, {0}));
  const at::Tensor holes =
      buckets.bias(weight, make_layout({2, 3}, {0, 1}, {1, 2, 0, 4, 8}));
  ASSERT_EQ(holes.sizes(), at::IntArrayRef({2, 2, 3, 3}));
  const std::vector<std::int64_t> at = {0, 4, 8};
  for (std::int64_t h = 0; h < 2; ++h) {
    EXPECT_EQ(holes[0][h][1][0].item<float>(), whole[h][2][1].item<float>());
    for (std::int64_t i = 0; i < 3; ++i) {
      for (std::int64_t j = 0; j < 3; ++j) {
        EXPECT_EQ(holes[1][h][i][j].item<float>(),
                  whole[h][at[static_cast<std::size_t>(i)]]
                       [at[static_cast<std::size_t>(j)]]
                           .item<float>());
      }
    }
  }
}

}  // namespace
}  // namespace thinwire
