// What holds of every encoder-decoder, on the golden ones.
#include <ATen/ops/arange.h>
#include <gtest/gtest.h>

#include "base/error.h"
#include "models/backbone.h"
#include "models/test_models.h"
#include "ops/linear_cross_entropy.h"
#include "ops/loss.h"

namespace thinwire {
namespace {

class EncoderDecoder : public ::testing::TestWithParam<const char*> {
 protected:
  const std::string folder = golden_path(GetParam());
  const SafetensorsFile golden{folder + "/golden.safetensors"};
  const std::unique_ptr<Backbone> model = load_backbone(folder);
  const HfBatch batch = golden_inputs(golden, model->config());
};

TEST_P(EncoderDecoder, AgreesWithHfForwardAndBackward) {
  train_everything(*model);
  const BackboneOutput out = model->forward(batch.input, {});
  const at::Tensor logits = model->lm_logits(out.hidden, {});
  EXPECT_TRUE(golden_close("logits", batch.decoder.pad(logits),
                           golden.tensor("logits")));
  const at::Tensor& labels = batch.input.labels;
  const double counted = labels.ne(-100).sum().item<double>();
  EXPECT_TRUE(golden_close("loss from logits",
                           cross_entropy_sum(logits, labels).div(counted),
                           golden.tensor("loss")));
  const at::Tensor loss = model->lm_loss(out.hidden, labels, {}).div(counted);
  EXPECT_TRUE(golden_close("loss", loss, golden.tensor("loss")));
  loss.backward();
  expect_golden_grads(*model, golden);
}

// With a bias on the head the loss goes through the logits.
class HeadBias : public LinearAttachment {
 public:
  explicit HeadBias(at::Tensor b) : b_(std::move(b)) {}
  at::Tensor bias(const ForwardContext&) override { return b_; }

 private:
  at::Tensor b_;
};

TEST_P(EncoderDecoder, LossAndLikeliestTokensFollowTheLogits) {
  const at::Tensor& labels = batch.input.labels;
  const at::Tensor hidden = model->forward(batch.input, {}).hidden;
  const int head = model->find_site(SiteKind::kLinear, "lm_head");
  at::Tensor bias = at::arange(model->config().vocab_size, at::kFloat)
                        .mul(0.01)
                        .set_requires_grad(true);
  for (const bool attached : {false, true}) {
    if (attached) model->attach(head, std::make_shared<HeadBias>(bias));
    const at::Tensor logits = model->lm_logits(hidden, {});
    const at::Tensor loss = model->lm_loss(hidden, labels, {});
    EXPECT_LT(loss.sub(cross_entropy_sum(logits, labels)).abs().item<double>(),
              1e-4);
    EXPECT_EQ(loss.requires_grad(), attached);
    const TokenLosses rows = model->lm_token_losses(hidden, labels, {});
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

TEST_P(EncoderDecoder, EncodeThenDecodeIsForward) {
  const at::Tensor whole = model->forward(batch.input, {}).hidden;
  const BackboneOutput memory = model->encode(batch.input, {});
  EXPECT_TRUE(model->decode(memory, batch.input, {}).hidden.equal(whole));
  EXPECT_FALSE(whole.requires_grad());
  EXPECT_THROW(model->pooled(memory, {}), UsageError);
}

// A sequence alone, packed with others, or padded: the same numbers.
TEST_P(EncoderDecoder, PackedEqualsAlone) {
  const at::Tensor all =
      batch.decoder.pad(model->forward(batch.input, {}).hidden);
  for (int b = 0; b < 4; ++b) {
    NamedTensors one;
    for (const char* name : {"input_ids", "attention_mask", "labels"}) {
      one.emplace_back(name, golden.tensor(name).narrow(0, b, 1));
    }
    const HfBatch alone = read_hf_inputs(one, model->config());
    const at::Tensor hidden =
        alone.decoder.pad(model->forward(alone.input, {}).hidden);
    EXPECT_TRUE(golden_close("row", hidden[0], all[b], 2e-6)) << b;
  }
}

INSTANTIATE_TEST_SUITE_P(Golden, EncoderDecoder,
                         ::testing::Values("t5_tied", "t5_gated", "bart_text",
                                           "bart_bare"),
                         [](const auto& info) {
                           return std::string(info.param);
                         });

}  // namespace
}  // namespace thinwire
