#include <ATen/ops/arange.h>
#include <ATen/ops/ones.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>

#include "base/error.h"
#include "models/backbone.h"
#include "models/tensor_source.h"
#include "models/test_models.h"
#include "ops/loss.h"

namespace thinwire {
namespace {

using ::testing::HasSubstr;

// Masks with padding on the right, on the left, and holes: packed rows against
// HF's padded ones.
TEST(Gpt2, LanguageModellingAgreesWithHfForwardAndBackward) {
  const std::string folder = golden_path("gpt2_lm");
  const SafetensorsFile golden(folder + "/golden.safetensors");
  for (const bool checkpointed : {false, true}) {
    const auto gpt2 = load_backbone(folder);
    train_everything(*gpt2);
    const HfBatch batch = golden_inputs(golden, gpt2->config());
    ForwardContext ctx;
    ctx.checkpoint_blocks = checkpointed;

    const at::Tensor hidden = gpt2->forward(batch.input, ctx).hidden;
    ctx.layout = &batch.input.encoder.layout;
    EXPECT_TRUE(golden_close("logits",
                             batch.encoder.pad(gpt2->lm_logits(hidden, ctx)),
                             golden.tensor("logits")));
    const at::Tensor loss = gpt2->lm_loss(hidden, batch.input.labels, ctx)
                                .div(batch.input.labels.ne(-100).sum());
    EXPECT_TRUE(golden_close("loss", loss, golden.tensor("loss")));
    loss.backward();
    expect_golden_grads(*gpt2, golden);
  }
}

TEST(Gpt2, ClassificationAgreesWithHfForwardAndBackward) {
  const std::string folder = golden_path("gpt2_classify");
  const SafetensorsFile golden(folder + "/golden.safetensors");
  const auto gpt2 = load_backbone(folder);
  EXPECT_EQ(gpt2->config().labels, 3);
  const int score =
      add_classifier(*gpt2, *open_hf_folder(folder, "transformer"), 3);
  train_everything(*gpt2);
  const HfBatch batch = golden_inputs(golden, gpt2->config());

  const at::Tensor logits = classify(*gpt2, score, batch.input, {});
  EXPECT_TRUE(golden_close("logits", logits, golden.tensor("logits")));
  const at::Tensor loss =
      cross_entropy_sum(logits, batch.input.labels).div(logits.size(0));
  EXPECT_TRUE(golden_close("loss", loss, golden.tensor("loss")));
  loss.backward();
  expect_golden_grads(*gpt2, golden);
}

// As the hub has the first checkpoints: no "transformer." before names, masks
// saved as buffers.
TEST(Gpt2, BareCheckpointAgreesWithHfForwardAndBackward) {
  const std::string folder = golden_path("gpt2_bare");
  const SafetensorsFile golden(folder + "/golden.safetensors");
  const auto gpt2 = load_backbone(folder);
  train_everything(*gpt2);
  const HfBatch batch = golden_inputs(golden, gpt2->config());
  const at::Tensor hidden =
      batch.encoder.pad(gpt2->forward(batch.input, {}).hidden);
  EXPECT_TRUE(golden_close("last_hidden_state", hidden,
                           golden.tensor("last_hidden_state")));
  const at::Tensor loss = hidden.mul(golden.tensor("to_hidden")).sum();
  EXPECT_TRUE(golden_close("loss", loss, golden.tensor("loss")));
  loss.backward();
  expect_golden_grads(*gpt2, golden);
}

TEST(Gpt2, ItsSlotsAreHfsTensorsAsTheyLie) {
  const std::string folder = golden_path("gpt2_lm");
  const auto gpt2 = load_backbone(folder);
  const SafetensorsFile file(folder + "/model.safetensors");
  const Parameters& p = gpt2->parameters();
  EXPECT_EQ(static_cast<std::size_t>(p.size()), file.names().size());
  for (int i = 0; i < p.size(); ++i) {
    EXPECT_TRUE(p.slot(i).frozen.equal(file.tensor(p.slot(i).name)))
        << p.slot(i).name;
  }
  const int c_fc = p.require("transformer.h.1.mlp.c_fc.weight");
  EXPECT_EQ(p.slot(c_fc).frozen.size(0), 24);
  EXPECT_EQ(p.slot(c_fc).axes, WeightAxes::kInOut);
  const int site =
      gpt2->find_site(SiteKind::kLinear, "transformer.h.1.mlp.c_fc");
  EXPECT_EQ(gpt2->sites()[static_cast<std::size_t>(site)].d_out, 40);
}

TEST(Gpt2, EveryMatrixIsALinearSite) {
  const auto gpt2 = load_backbone(golden_path("gpt2_lm"));
  int linear = 0, fused = 0;
  for (const Site& site : gpt2->sites()) {
    linear += site.kind == SiteKind::kLinear;
    fused += site.fused == 3;
  }
  EXPECT_EQ(linear, 2 * 4 + 1);  // the head is one more
  EXPECT_EQ(fused, 2);
}

// A token's logits do not depend on what follows.
TEST(Gpt2, NoTokenSeesWhatFollows) {
  const auto gpt2 = load_backbone(golden_path("gpt2_lm"));
  const at::Tensor ids = at::arange(2, 14).view({1, 12});
  const auto hidden = [&](std::int64_t n) {
    return gpt2
        ->forward(
            read_hf_inputs({{"input_ids", ids.narrow(1, 0, n)}}, gpt2->config())
                .input,
            {})
        .hidden;
  };
  EXPECT_TRUE(
      golden_close("hidden", hidden(12).narrow(0, 0, 5), hidden(5), 1e-6));
}

TEST(Gpt2, RandomWeightsAreAsHfsInitialisation) {
  const auto gpt2 = random_backbone(golden_path("gpt2_lm"), 1);
  const Parameters& p = gpt2->parameters();
  const auto deviation = [&](const char* name) {
    return p.slot(p.require(name)).frozen.std().item<double>();
  };
  EXPECT_NEAR(deviation("transformer.h.0.attn.c_attn.weight"), 0.02, 1e-3);
  EXPECT_NEAR(deviation("transformer.h.0.mlp.c_proj.weight"), 0.01, 1e-3);
  EXPECT_NEAR(deviation("transformer.wpe.weight"), 0.02, 2e-3);
  EXPECT_EQ(deviation("transformer.h.0.attn.c_attn.bias"), 0);
  EXPECT_EQ(deviation("transformer.ln_f.weight"), 0);
}

TEST(Gpt2, TooLongASequenceIsRefused) {
  const auto gpt2 = load_backbone(golden_path("gpt2_lm"));
  const HfBatch batch = read_hf_inputs(
      {{"input_ids", at::ones({2, 20}, at::kLong)}}, gpt2->config());
  EXPECT_THROW(gpt2->forward(batch.input, {}), UsageError);
}

TEST(Gpt2, LabelsBehindAHiddenTokenAreRefused) {
  const auto gpt2 = load_backbone(golden_path("gpt2_lm"));
  const at::Tensor ids = at::ones({1, 4}, at::kLong);
  const at::Tensor mask = ids.clone();
  mask[0][1] = 0;
  try {
    read_hf_inputs(
        {{"input_ids", ids}, {"attention_mask", mask}, {"labels", ids}},
        gpt2->config());
    FAIL();
  } catch (const UsageError& e) {
    EXPECT_THAT(e.what(), HasSubstr("at element 2"));
  }
  EXPECT_THROW(read_hf_inputs({{"input_ids", ids}, {"labels", ids.mul(50)}},
                              gpt2->config()),
               UsageError);
}

}  // namespace
}  // namespace thinwire
