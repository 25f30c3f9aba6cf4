#include <ATen/ops/arange.h>
#include <ATen/ops/ones.h>
#include <gtest/gtest.h>

#include "base/error.h"
#include "models/backbone.h"
#include "models/relative_bias.h"
#include "models/test_models.h"
#include "ops/linear_cross_entropy.h"
#include "ops/loss.h"

namespace thinwire {
namespace {

void expect_agreement(const std::string& name) {
  const std::string folder = golden_path(name);
  const SafetensorsFile golden(folder + "/golden.safetensors");
  const auto t5 = load_backbone(folder);
  train_everything(*t5);
  const HfBatch batch = golden_inputs(golden, t5->config());

  const BackboneOutput out = t5->forward(batch.input, {});
  const at::Tensor logits = t5->lm_logits(out.hidden, {});
  EXPECT_TRUE(golden_close("logits", batch.decoder.pad(logits),
                           golden.tensor("logits")));
  const at::Tensor& labels = batch.input.labels;
  const double counted = labels.ne(-100).sum().item<double>();
  EXPECT_TRUE(golden_close("loss from logits",
                           cross_entropy_sum(logits, labels).div(counted),
                           golden.tensor("loss")));
  const at::Tensor loss = t5->lm_loss(out.hidden, labels, {}).div(counted);
  EXPECT_TRUE(golden_close("loss", loss, golden.tensor("loss")));
  loss.backward();
  expect_golden_grads(*t5, golden);
}

TEST(T5, TiedReluAgreesWithHfForwardAndBackward) {
  expect_agreement("t5_tied");
}

TEST(T5, UntiedGatedSavedAgainAgreesWithHfForwardAndBackward) {
  expect_agreement("t5_gated");
}

// With a bias on the head the loss goes through the logits.
class HeadBias : public LinearAttachment {
 public:
  explicit HeadBias(at::Tensor b) : b_(std::move(b)) {}
  at::Tensor bias(const ForwardContext&) override { return b_; }

 private:
  at::Tensor b_;
};

TEST(T5, LossAndLikeliestTokensFollowTheLogits) {
  const auto t5 = load_backbone(golden_path("t5_tied"));
  const SafetensorsFile golden(golden_path("t5_tied/golden.safetensors"));
  const HfBatch batch = golden_inputs(golden, t5->config());
  const at::Tensor& labels = batch.input.labels;
  const at::Tensor hidden = t5->forward(batch.input, {}).hidden;
  const int head = t5->find_site(SiteKind::kLinear, "lm_head");
  at::Tensor bias = at::arange(t5->config().vocab_size, at::kFloat)
                        .mul(0.01)
                        .set_requires_grad(true);
  for (const bool attached : {false, true}) {
    if (attached) t5->attach(head, std::make_shared<HeadBias>(bias));
    const at::Tensor logits = t5->lm_logits(hidden, {});
    const at::Tensor loss = t5->lm_loss(hidden, labels, {});
    EXPECT_LT(loss.sub(cross_entropy_sum(logits, labels)).abs().item<double>(),
              1e-4);
    EXPECT_EQ(loss.requires_grad(), attached);
    const TokenLosses rows = t5->lm_token_losses(hidden, labels, {});
    EXPECT_LT(rows.loss.sub(cross_entropy_rows(logits, labels))
                  .abs()
                  .max()
                  .item<double>(),
              1e-5);
    const at::Tensor counts = labels.ne(-100);
    EXPECT_TRUE(rows.best.masked_select(counts).equal(
        logits.argmax(1).masked_select(counts)));
  }
}

TEST(T5, TheHeadIsTheEmbeddingUnlessTheFileHoldsAnother) {
  const auto tied = load_backbone(golden_path("t5_tied"));
  EXPECT_EQ(tied->parameters().find("lm_head.weight"), -1);
  EXPECT_TRUE(tied->config().scale_decoder_outputs);
  const auto untied = load_backbone(golden_path("t5_gated"));
  EXPECT_GE(untied->parameters().find("lm_head.weight"), 0);
  EXPECT_FALSE(untied->config().scale_decoder_outputs);
}

TEST(T5, EncodeThenDecodeIsForward) {
  const auto t5 = load_backbone(golden_path("t5_tied"));
  const SafetensorsFile golden(golden_path("t5_tied/golden.safetensors"));
  const HfBatch batch = golden_inputs(golden, t5->config());
  const at::Tensor whole = t5->forward(batch.input, {}).hidden;
  const BackboneOutput memory = t5->encode(batch.input, {});
  EXPECT_TRUE(t5->decode(memory, batch.input, {}).hidden.equal(whole));
  EXPECT_FALSE(whole.requires_grad());
  EXPECT_THROW(t5->pooled(memory, {}), UsageError);
}

// A sequence alone, packed with others, or padded: the same numbers.
TEST(T5, PackedEqualsAlone) {
  const auto t5 = load_backbone(golden_path("t5_gated"));
  const SafetensorsFile golden(golden_path("t5_gated/golden.safetensors"));
  const HfBatch batch = golden_inputs(golden, t5->config());
  const at::Tensor all = batch.decoder.pad(t5->forward(batch.input, {}).hidden);
  for (int b = 0; b < 4; ++b) {
    NamedTensors one;
    for (const char* name : {"input_ids", "attention_mask", "labels"}) {
      one.emplace_back(name, golden.tensor(name).narrow(0, b, 1));
    }
    const HfBatch alone = read_hf_inputs(one, t5->config());
    const at::Tensor hidden =
        alone.decoder.pad(t5->forward(alone.input, {}).hidden);
    EXPECT_TRUE(golden_close("row", hidden[0], all[b], 2e-6)) << b;
  }
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
