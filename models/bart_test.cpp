#include <ATen/ops/arange.h>
#include <ATen/ops/ones.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/error.h"
#include "models/backbone.h"
#include "models/test_models.h"

namespace thinwire {
namespace {

std::unique_ptr<Backbone> load(const char* name) {
  return load_backbone(golden_path(name));
}

TEST(Bart, ConfigReadsEitherStack) {
  const ModelConfig c = read_model_config(golden_path("bart_text"));
  EXPECT_EQ(c.layers, 2);
  EXPECT_EQ(c.decoder_layers, 3);
  EXPECT_EQ(c.heads, 2);
  EXPECT_EQ(c.decoder_heads, 4);
  EXPECT_EQ(c.d_ff, 20);
  EXPECT_EQ(c.decoder_d_ff, 28);
  EXPECT_EQ(c.embedding_scale, 4);
  EXPECT_EQ(c.max_positions, 20);
  EXPECT_EQ(c.dropout, 0.1);
  EXPECT_EQ(c.attention_dropout, 0);
  EXPECT_EQ(c.activation_dropout, 0.1);
  EXPECT_EQ(c.pad_id, 1);
  EXPECT_EQ(c.eos_id, 2);
  EXPECT_EQ(c.decoder_start_id, 2);
}

TEST(Bart, TheBiasOfTheLogitsIsSavedAndNeverTrains) {
  const auto bart = load("bart_text");
  const Parameters& p = bart->parameters();
  const int bias = p.require("final_logits_bias");
  EXPECT_TRUE(p.slot(bias).buffer);
  std::int64_t numbers = 0;
  for (int i = 0; i < p.size(); ++i) numbers += p.slot(i).frozen.numel();
  EXPECT_EQ(p.count(), numbers - 41);
  const at::Tensor hidden = at::ones({2, 16});
  const at::Tensor with = bart->lm_logits(hidden, {});
  p.slot(bias).frozen.mul_(2);
  const at::Tensor twice = bart->lm_logits(hidden, {});
  EXPECT_TRUE(golden_close("bias", twice.sub(with)[1],
                           p.slot(bias).frozen.div(2)[0], 1e-6));
  EXPECT_EQ(load("bart_bare")->parameters().find("final_logits_bias"), -1);
}

TEST(Bart, OneTableServesBothStacksAndTheOutput) {
  for (const char* name : {"bart_text", "bart_bare"}) {
    const auto bart = load(name);
    EXPECT_GE(bart->parameters().find("model.shared.weight"), 0);
    for (const char* other :
         {"model.encoder.embed_tokens.weight",
          "model.decoder.embed_tokens.weight", "lm_head.weight"}) {
      EXPECT_EQ(bart->parameters().find(other), -1) << other;
    }
  }
}

// Attention has no dropout of its own in this model.
TEST(Bart, EveryDropoutOfTheConfigActs) {
  const auto bart = load("bart_text");
  const SafetensorsFile golden(golden_path("bart_text/golden.safetensors"));
  const HfBatch batch = golden_inputs(golden, bart->config());
  ForwardContext ctx;
  ctx.training = true;
  const auto hidden = [&] { return bart->forward(batch.input, ctx).hidden; };
  const at::Tensor own = hidden();
  EXPECT_TRUE(own.equal(hidden()));
  bart->set_dropout(0.1);  // attention's too
  EXPECT_FALSE(own.equal(hidden()));
  bart->set_dropout(0);
  const at::Tensor none = hidden();
  EXPECT_FALSE(own.equal(none));
  EXPECT_TRUE(none.equal(bart->forward(batch.input, {}).hidden));
}

TEST(Bart, ASequenceBeyondItsPositionsIsRefused) {
  const auto bart = load("bart_text");
  const auto run = [&](std::int64_t input, std::int64_t target) {
    const at::Tensor ids = at::ones({1, input}, at::kLong).mul(3);
    const at::Tensor labels = at::ones({1, target}, at::kLong).mul(3);
    const HfBatch batch = read_hf_inputs(
        {{"input_ids", ids}, {"labels", labels}}, bart->config());
    bart->forward(batch.input, {});
  };
  run(20, 20);
  for (const auto& [input, target] : {std::pair{21, 1}, {1, 21}}) {
    try {
      run(input, target);
      FAIL();
    } catch (const UsageError& e) {
      EXPECT_THAT(e.what(), testing::HasSubstr("21 tokens"));
      EXPECT_THAT(e.what(), testing::HasSubstr("the model takes 20"));
    }
  }
}

TEST(Bart, RandomWeightsHaveNoBias) {
  const auto bart = random_backbone(golden_path("bart_text/config.json"), 1);
  const at::Tensor hidden = at::arange(16, at::kFloat).view({1, 16});
  const at::Tensor table =
      bart->parameters()
          .slot(bart->parameters().require("model.shared.weight"))
          .frozen;
  EXPECT_TRUE(golden_close("logits", bart->lm_logits(hidden, {}),
                           hidden.matmul(table.t()), 1e-6));
}

}  // namespace
}  // namespace thinwire
