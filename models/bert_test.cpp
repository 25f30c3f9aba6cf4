#include <ATen/ops/ones.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/error.h"
#include "models/backbone.h"
#include "models/tensor_source.h"
#include "models/test_models.h"
#include "ops/loss.h"

namespace thinwire {
namespace {

void expect_classification(const std::string& architecture) {
  const std::string folder = golden_path(architecture + "_classify");
  const SafetensorsFile golden(folder + "/golden.safetensors");
  const auto bert = load_backbone(folder);
  EXPECT_EQ(bert->config().labels, 3);
  const int classifier =
      add_classifier(*bert, *open_hf_folder(folder, architecture), 3);
  train_everything(*bert);
  const HfBatch batch = golden_inputs(golden, bert->config());
  EXPECT_FALSE(batch.encoder.first_hidden);

  const at::Tensor logits = classify(*bert, classifier, batch.input, {});
  EXPECT_TRUE(golden_close("logits", logits, golden.tensor("logits")));
  const at::Tensor loss =
      cross_entropy_sum(logits, batch.input.labels).div(logits.size(0));
  EXPECT_TRUE(golden_close("loss", loss, golden.tensor("loss")));
  loss.backward();
  expect_golden_grads(*bert, golden);
}

TEST(Bert, ClassificationAgreesWithHfForwardAndBackward) {
  expect_classification("bert");
}

TEST(Roberta, ClassificationAgreesWithHfForwardAndBackward) {
  expect_classification("roberta");
}

TEST(Roberta, PaddingThatIsNotHiddenIsRefused) {
  const auto roberta = load_backbone(golden_path("roberta_classify"));
  EXPECT_EQ(roberta->config().max_positions, 17);
  const at::Tensor ids = at::ones({1, 3}, at::kLong);
  EXPECT_THROW(read_hf_inputs({{"input_ids", ids}}, roberta->config()),
               UsageError);
}

TEST(Bert, RegressionAgreesWithHfForwardAndBackward) {
  const std::string folder = golden_path("bert_regress");
  const SafetensorsFile golden(folder + "/golden.safetensors");
  const auto bert = load_backbone(folder);
  const int classifier =
      add_classifier(*bert, *open_hf_folder(folder, "bert"), 1);
  train_everything(*bert);
  const HfBatch batch = golden_inputs(golden, bert->config());

  const at::Tensor logits = classify(*bert, classifier, batch.input, {});
  EXPECT_TRUE(golden_close("logits", logits, golden.tensor("logits")));
  const at::Tensor loss =
      squared_error_sum(logits.squeeze(1), batch.input.labels)
          .div(logits.size(0));
  EXPECT_TRUE(golden_close("loss", loss, golden.tensor("loss")));
  loss.backward();
  expect_golden_grads(*bert, golden);
}

// A base model's checkpoint: no "bert." before names, old LayerNorm names, a
// saved buffer; masks with padding on the left and holes.
TEST(Bert, BareCheckpointAgreesWithHfForwardAndBackward) {
  const std::string folder = golden_path("bert_bare");
  const SafetensorsFile golden(folder + "/golden.safetensors");
  const auto bert = load_backbone(folder);
  train_everything(*bert);
  const HfBatch batch = golden_inputs(golden, bert->config());
  EXPECT_TRUE(batch.encoder.first_hidden);

  const BackboneOutput out = bert->forward(batch.input, {});
  const at::Tensor hidden = batch.encoder.pad(out.hidden);
  EXPECT_TRUE(golden_close("last_hidden_state", hidden,
                           golden.tensor("last_hidden_state")));
  const at::Tensor to_pooled = golden.tensor("to_pooled");
  const at::Tensor pooled = bert->pooled(out, {});
  for (const int row : {0, 2, 3}) {  // row 1 is padded on the left
    EXPECT_TRUE(golden_close("pooler_output", pooled[row],
                             golden.tensor("pooler_output")[row]));
  }
  const at::Tensor loss = hidden.mul(golden.tensor("to_hidden"))
                              .sum()
                              .add(pooled.mul(to_pooled).sum());
  EXPECT_TRUE(golden_close("loss", loss, golden.tensor("loss")));
  loss.backward();
  expect_golden_grads(*bert, golden);
}

TEST(Bert, EveryWeightMatrixOfTheEncoderIsALinearSite) {
  const auto bert = load_backbone(golden_path("bert_classify"));
  int matrices = 0, linear = 0;
  const Parameters& p = bert->parameters();
  for (int i = 0; i < p.size(); ++i) {
    matrices += p.slot(i).frozen.dim() == 2 &&
                p.slot(i).name.find("embeddings") == std::string::npos;
  }
  for (const Site& site : bert->sites()) {
    linear += site.kind == SiteKind::kLinear;
  }
  EXPECT_EQ(matrices, linear);
  EXPECT_EQ(linear, 2 * 6 + 1);
  EXPECT_GE(bert->find_site(SiteKind::kLinear,
                            "bert.encoder.layer.1.attention.self.query"),
            0);
  EXPECT_EQ(bert->find_site(SiteKind::kTap, "bert.encoder.layer.2"), -1);
}

TEST(Bert, TooLongASequenceIsRefused) {
  const auto bert = load_backbone(golden_path("bert_classify"));
  const HfBatch batch = read_hf_inputs(
      {{"input_ids", at::ones({2, 20}, at::kLong)}}, bert->config());
  EXPECT_THROW(bert->forward(batch.input, {}), UsageError);
}

TEST(Bert, HasNeitherDecoderNorLanguageModelHead) {
  const auto bert = load_backbone(golden_path("bert_classify"));
  EXPECT_THROW(bert->encode({}, {}), InternalError);
  EXPECT_THROW(bert->lm_logits({}, {}), UsageError);
  EXPECT_THROW(bert->lm_loss({}, {}, {}), UsageError);
}

}  // namespace
}  // namespace thinwire
