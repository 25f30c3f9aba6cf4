#include "peft/fisher.h"

#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros.h>
#include <ATen/ops/zeros_like.h>
#include <gtest/gtest.h>

#include <numeric>

#include "base/error.h"
#include "base/temp_folder.h"
#include "peft/delta_file.h"
#include "peft/testing.h"

namespace thinwire {
namespace {

using testing::Tiny;
using testing::TinyScoring;
using Json = nlohmann::ordered_json;

// A linear-softmax model has a closed form: the head of BERT, for which the
// pooled vector is the input. g_W = (p - e_y) x^T.
TEST(Fisher, AgreesWithTheClosedFormOfALinearSoftmax) {
  for (const auto labels : {Scoring::Labels::kData, Scoring::Labels::kModel}) {
    Tiny tiny("bert_classify");
    TinyScoring scoring(tiny);
    const int slot = tiny.backbone->parameters().require("classifier.weight");
    const std::vector<int> slots = {slot};
    const at::Tensor score =
        fisher_scores(*tiny.backbone, slots, scoring, 3, labels)[0];
    at::Tensor expected = at::zeros_like(score);
    for (std::int64_t b = 0; b < 3; ++b) {
      const HfBatch one = tiny.example(b);
      const BackboneOutput out = tiny.backbone->forward(one.input, {});
      const at::Tensor x = tiny.backbone->pooled(out, {})[0];
      const at::Tensor p = tiny.logits(one.input).softmax(1)[0];
      at::Tensor factor = p.mul(p.neg().add(1));  // p (1 - p)
      if (labels == Scoring::Labels::kData) {
        factor = p.clone();
        factor[one.input.labels.item<std::int64_t>()] -= 1;
        factor = factor.mul(factor);
      }
      expected.add_(factor.unsqueeze(1).mul(x.mul(x).unsqueeze(0)));
    }
    EXPECT_TRUE(golden_close("score", score, expected));
    EXPECT_FALSE(tiny.backbone->parameters().slot(slot).frozen.requires_grad());
  }
}

TEST(Fisher, PerExampleIsNotPerBatch) {
  Tiny tiny("bert_classify");
  TinyScoring scoring(tiny);
  const std::vector<int> slots = {
      tiny.backbone->parameters().require("bert.pooler.dense.weight")};
  const at::Tensor scores = fisher_scores(*tiny.backbone, slots, scoring, 3,
                                          Scoring::Labels::kData)[0];
  at::Tensor weight = tiny.backbone->parameters().slot(slots[0]).frozen;
  weight.requires_grad_(true);
  tiny.loss().backward();
  const at::Tensor batch = weight.grad().mul(weight.grad());
  EXPECT_GT(scores.sub(batch).norm().item<double>(),
            0.1 * batch.norm().item<double>());
}

// The definition: one backward per example, its dense gradients squared.
std::vector<at::Tensor> one_by_one(Tiny& tiny, std::span<const int> slots,
                                   std::int64_t samples,
                                   Scoring::Labels labels) {
  std::vector<at::Tensor> weights, scores;
  for (const int slot : slots) {
    weights.push_back(tiny.backbone->parameters().slot(slot).frozen);
    weights.back().requires_grad_(true);
    scores.push_back(at::zeros(weights.back().sizes()));
  }
  TinyScoring(tiny, 1).for_each_batch(
      samples, labels, [&](std::span<const double> weight, const auto& run) {
        run();
        for (std::size_t i = 0; i < weights.size(); ++i) {
          at::Tensor& grad = weights[i].mutable_grad();
          if (grad.defined()) {
            scores[i].add_(grad.to(at::kFloat).square(), weight[0]);
          }
          grad.reset();
        }
      });
  for (at::Tensor& weight : weights) weight.requires_grad_(false);
  return scores;
}

// Has the language-model head compute its logits, as it does for a scored
// matrix: cross-entropy by tiles rounds to bf16 elsewhere.
void keep_logits(Backbone& backbone) {
  for (std::size_t i = 0; i < backbone.sites().size(); ++i) {
    if (backbone.sites()[i].name != "lm_head") continue;
    backbone.attach(static_cast<int>(i), std::make_shared<LinearAttachment>());
  }
}

struct Case {
  const char* model;
  Scoring::Labels labels;
  const char* dtype = "fp32";
};
class Batched : public ::testing::TestWithParam<Case> {};

TEST_P(Batched, EqualsOneBackwardPerExample) {
  Tiny tiny(GetParam().model, GetParam().dtype);
  if (GetParam().dtype != std::string_view("fp32")) keep_logits(*tiny.backbone);
  const Parameters& p = tiny.backbone->parameters();
  std::vector<int> slots(static_cast<std::size_t>(p.size()));
  std::iota(slots.begin(), slots.end(), 0);
  const std::int64_t samples = tiny.golden.tensor("input_ids").size(0);
  const auto expected = one_by_one(tiny, slots, samples, GetParam().labels);
  for (const std::int64_t size : {std::int64_t{2}, samples}) {
    TinyScoring scoring(tiny, size);
    const auto scores = fisher_scores(*tiny.backbone, slots, scoring, samples,
                                      GetParam().labels);
    for (std::size_t i = 0; i < slots.size(); ++i) {
      const std::string& name = p.slot(slots[i]).name;
      // Softmax does not see a key's bias: rounding alone.
      if (name.ends_with(".key.bias")) continue;
      EXPECT_GT(expected[i].norm().item<double>(), 0) << name;
      // One at a time, gradients of bf16 weights are rounded to bf16.
      EXPECT_TRUE(golden_close(
          name, scores[i], expected[i],
          GetParam().dtype != std::string_view("fp32") ? 2e-2 : 1e-5));
      EXPECT_GE(scores[i].min().item<double>(), 0) << name;
      EXPECT_EQ(p.scored(slots[i]), nullptr);
    }
  }
}

INSTANTIATE_TEST_SUITE_P(
    Fisher, Batched,
    ::testing::Values(Case{"bert_classify", Scoring::Labels::kData},
                      Case{"bert_classify", Scoring::Labels::kModel},
                      Case{"bert_classify", Scoring::Labels::kData, "bf16"},
                      Case{"gpt2_classify", Scoring::Labels::kModel},
                      Case{"gpt2_lm", Scoring::Labels::kData},
                      Case{"gpt2_lm", Scoring::Labels::kData, "bf16"},
                      Case{"t5_tied", Scoring::Labels::kData},
                      Case{"t5_tied", Scoring::Labels::kData, "bf16"},
                      Case{"t5_gated", Scoring::Labels::kData}));

// The definition: one backward of all examples, with weights that ask for it.
std::vector<at::Tensor> at_once(Tiny& tiny, std::span<const int> slots) {
  std::vector<at::Tensor> weights, gradients;
  for (const int slot : slots) {
    weights.push_back(tiny.backbone->parameters().slot(slot).frozen);
    weights.back().requires_grad_(true);
  }
  tiny.loss().backward();
  for (at::Tensor& weight : weights) {
    gradients.push_back(weight.grad().to(at::kFloat));
    weight.mutable_grad().reset();
    weight.requires_grad_(false);
  }
  return gradients;
}

class Summed : public ::testing::TestWithParam<Case> {};

TEST_P(Summed, EqualsOneBackward) {
  Tiny tiny(GetParam().model, GetParam().dtype);
  const bool narrow = GetParam().dtype != std::string_view("fp32");
  if (narrow) keep_logits(*tiny.backbone);
  const Parameters& p = tiny.backbone->parameters();
  std::vector<int> slots(static_cast<std::size_t>(p.size()));
  std::iota(slots.begin(), slots.end(), 0);
  const std::int64_t samples = tiny.golden.tensor("input_ids").size(0);
  const auto expected = at_once(tiny, slots);
  for (const std::int64_t size : {std::int64_t{1}, samples}) {
    TinyScoring scoring(tiny, size);
    const auto sums = summed_gradients(*tiny.backbone, slots, scoring, samples);
    for (std::size_t i = 0; i < slots.size(); ++i) {
      const std::string& name = p.slot(slots[i]).name;
      // Softmax does not see a key's bias: rounding alone.
      if (name.ends_with(".key.bias")) continue;
      EXPECT_GT(expected[i].norm().item<double>(), 0) << name;
      // The gradients of bf16 weights are rounded to bf16.
      EXPECT_TRUE(golden_close(name, sums[i], expected[i],
                               narrow ? 2e-2 : kGoldenTolerance));
      EXPECT_EQ(p.scored(slots[i]), nullptr);
    }
  }
}

INSTANTIATE_TEST_SUITE_P(
    Gradients, Summed,
    ::testing::Values(Case{"bert_classify", Scoring::Labels::kData},
                      Case{"bert_classify", Scoring::Labels::kData, "bf16"},
                      Case{"gpt2_classify", Scoring::Labels::kData},
                      Case{"gpt2_lm", Scoring::Labels::kData},
                      Case{"gpt2_lm", Scoring::Labels::kData, "bf16"},
                      Case{"t5_tied", Scoring::Labels::kData},
                      Case{"t5_tied", Scoring::Labels::kData, "bf16"},
                      Case{"t5_gated", Scoring::Labels::kData}));

TEST(FishMask, ASavedMaskComesBack) {
  Tiny tiny("bert_classify");
  TinyScoring scoring(tiny);
  const Json config = {{"density", 0.05}, {"samples", 3}};
  const Delta drawn = testing::declare(*make_method("fish_mask", config),
                                       *tiny.backbone, {.scoring = &scoring});
  const TempFolder folder;
  const std::string path = folder / "mask.safetensors";
  save_delta(path, drawn, tiny.backbone->parameters().identity());
  const auto from_file = make_method("fish_mask", {{"mask_file", path}});
  const Delta read = testing::declare(*from_file, *tiny.backbone);
  EXPECT_EQ(read.hash(), drawn.hash());
  EXPECT_TRUE(read.values().equal(drawn.values()));

  Tiny other("bert_classify");
  other.backbone->parameters().slot(0).frozen.add(0);
  at::Tensor weight = other.backbone->parameters().slot(0).frozen;
  weight.view({-1})[0] += 1;
  EXPECT_THROW(testing::declare(*from_file, *other.backbone), UsageError);
  Tiny t5("t5_tied");
  EXPECT_THROW(testing::declare(*from_file, *t5.backbone), UsageError);
  EXPECT_THROW(
      make_method("fish_mask", {{"mask_file", path}, {"remask_every", 3}}),
      UsageError);
}

TEST(FishMask, ExcludedTensorsAreLeftOutOfTheMaskNotOfTheBudget) {
  Tiny tiny("bert_classify");
  TinyScoring scoring(tiny);
  const auto draw = [&](Json config) {
    config["density"] = 0.05;
    config["samples"] = 3;
    return testing::declare(*make_method("fish_mask", config), *tiny.backbone,
                            {.scoring = &scoring});
  };
  const Delta all = draw(Json::object());
  const Delta some = draw({{"exclude", {"pooler", "*.LayerNorm.*"}}});
  EXPECT_GE(all.find("fish.bert.pooler.dense.weight"), 0);
  for (const DeltaEntry& e : some.entries()) {
    EXPECT_EQ(e.name.find("pooler"), std::string::npos);
    EXPECT_EQ(e.name.find("LayerNorm"), std::string::npos);
  }
  EXPECT_EQ(all.trainable(), some.trainable());
}

TEST(FishMask, BoundariesFollowWarmUpAndReMasking) {
  const auto boundary = [](Json config, std::int64_t step) {
    return make_method("fish_mask", config)->next_boundary(step);
  };
  EXPECT_EQ(boundary(Json::object(), 0), std::nullopt);
  EXPECT_EQ(boundary({{"warmup_steps", 20}}, 0), 20);
  EXPECT_EQ(boundary({{"warmup_steps", 20}}, 20), std::nullopt);
  const Json both = {{"warmup_steps", 20}, {"remask_every", 50}};
  EXPECT_EQ(boundary(both, 19), 20);
  EXPECT_EQ(boundary(both, 20), 70);
  EXPECT_EQ(boundary(both, 69), 70);
  EXPECT_EQ(boundary(both, 70), 120);
}

TEST(FishMask, WarmUpTrainsEverything) {
  Tiny tiny("bert_classify");
  const auto method =
      make_method("fish_mask", {{"warmup_steps", 2}, {"density", 0.1}});
  const Delta dense = testing::declare(*method, *tiny.backbone, {.step = 1});
  EXPECT_EQ(dense.trainable(), tiny.backbone->parameters().count());
  const Delta masked = testing::declare(*method, *tiny.backbone, {.step = 2});
  EXPECT_LT(masked.trainable(), dense.trainable());
}

}  // namespace
}  // namespace thinwire
