#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>

#include "ops/loss.h"
#include "tasks/test_samples.h"

namespace thinwire {
namespace {

using test::Fixture;
using test::sample;
using test::usage_error;
using testing::ElementsAre;
using testing::HasSubstr;

const TaskConfig kConfig = test::writing_config({{"max_new_tokens", 4}});

std::vector<std::int64_t> values(const at::Tensor& x) {
  const auto* p = x.const_data_ptr<std::int64_t>();
  return {p, p + x.numel()};
}

TEST(LanguageModel, EachRowIsAskedForTheNextTokenOfItsOwnText) {
  const Fixture f("gpt2_lm", "lm", kConfig);
  const BackboneInput in =
      f.collate({sample(4, {5, 6, 1}), sample(5, {7, 8, 9}, 0, {3, 1})});
  EXPECT_THAT(values(in.encoder.tokens), ElementsAre(5, 6, 1, 7, 8, 9, 3, 1));
  // Of a prompt and its target the target alone.
  EXPECT_THAT(values(in.labels),
              ElementsAre(6, 1, -100, -100, -100, 3, 1, -100));
  EXPECT_THAT(in.encoder.layout.offsets, ElementsAre(0, 3, 8));
  EXPECT_THAT(in.prompts, ElementsAre(0, 3));
  EXPECT_FALSE(in.decoder.tokens.defined());
}

TEST(LanguageModel, WritesBehindAPromptAndMeasuresPlainText) {
  Fixture f("gpt2_lm", "lm", kConfig);
  const auto predict = [&](const std::vector<Sample>& samples) {
    return f.task->predict(*f.backbone, f.collate(samples), {});
  };
  const Sample text = sample(4, {5, 6, 1, 9});
  const auto out = predict({sample(5, {7, 8, 9}, 0, {3, 1}), text,
                            sample(6, {7}, 0, {8, 9, 3, 1}),
                            sample(7, {7, 8, 9}, 0, {20, 30, 1})});
  ASSERT_EQ(out.size(), 4u);
  const std::vector<std::uint64_t> ids{5, 4, 6, 7};
  for (std::size_t b = 0; b < 4; ++b) {
    EXPECT_EQ(out[b].sample, ids[b]);
  }
  EXPECT_FALSE(out[1].tokens.has_value());
  EXPECT_NEAR(out[1].value, predict({text})[0].value, 1e-6);
  // What should follow is not read.
  EXPECT_EQ(out[0].tokens, out[3].tokens);
  EXPECT_NEAR(out[0].value, out[3].value, 1e-5);
  // The likeliest of each row, the text's own tokens before it.
  for (const std::size_t b : {std::size_t{0}, std::size_t{2}}) {
    std::vector<std::int32_t> read =
        b == 0 ? std::vector{7, 8, 9} : std::vector{7};
    for (const std::int32_t token : out[b].tokens.value()) {
      const at::Tensor logits =
          f.task->logits(*f.backbone, f.collate({sample(1, read, 0, {1})}), {});
      const auto last = static_cast<std::int64_t>(read.size()) - 1;
      EXPECT_EQ(logits[last].argmax().item<std::int64_t>(), token);
      read.push_back(token);
    }
    EXPECT_FALSE(out[b].tokens->empty());
  }
}

TEST(LanguageModel, TextsAreJudgedBesideTheLoss) {
  const auto task = find_task("lm").make(
      test::writing_config({{"metrics", {"squad", "rouge"}}}));
  EXPECT_TRUE(task->judges_texts());
  EXPECT_EQ(task->main_metric(), "f1");
  std::vector<EvalRow> rows(2);
  for (std::size_t i = 0; i < 2; ++i) {
    rows[i] = {.sample = i,
               .label = 4,
               .prediction = 2,
               .loss_sum = 6,
               .loss_weight = 4};
    const std::vector<std::string> references{"a red fox"};
    rows[i].figures =
        task->text_figures(i == 0 ? "a red fox" : "a red hen", references);
  }
  const Metrics m = task->metrics(rows);
  EXPECT_EQ(m.at("loss"), 1.5);
  EXPECT_EQ(m.at("token_accuracy"), 0.5);
  EXPECT_EQ(m.at("exact_match"), 0.5);
  EXPECT_NEAR(m.at("f1"), 0.75, 1e-12);  // SQuAD leaves "a" out
  EXPECT_NEAR(m.at("rouge1"), 5.0 / 6, 1e-12);
}

TEST(LanguageModel, LossAndMetricsFollowTheLogits) {
  Fixture f("gpt2_lm", "lm", kConfig);
  const BackboneInput in =
      f.collate({sample(4, {5, 6, 1, 9}), sample(5, {7, 8, 9}, 0, {3, 1})});
  const LossTerms terms = f.task->loss(*f.backbone, in, {});
  EXPECT_EQ(terms.weight, 5);
  const at::Tensor logits = f.task->logits(*f.backbone, in, {});
  EXPECT_EQ(logits.size(0), 9);
  const at::Tensor rows = cross_entropy_rows(logits, in.labels);
  EXPECT_NEAR(terms.sum.item<double>(), rows.sum().item<double>(), 1e-4);

  const auto evaluated = f.task->evaluate(*f.backbone, in, {});
  ASSERT_EQ(evaluated.size(), 2u);
  EXPECT_EQ(evaluated[1].loss_weight, 2);
  EXPECT_NEAR(evaluated[1].loss_sum, rows.narrow(0, 4, 5).sum().item<double>(),
              1e-4);
  const double hits = logits.argmax(1).eq(in.labels).sum().item<double>();
  const Metrics m = f.task->metrics(evaluated);
  EXPECT_NEAR(m.at("loss"), terms.sum.item<double>() / 5, 1e-5);
  EXPECT_NEAR(m.at("perplexity"), std::exp(m.at("loss")), 1e-9);
  EXPECT_NEAR(m.at("token_accuracy"), hits / 5, 1e-9);
  EXPECT_EQ(f.task->main_metric(), "loss");

  const auto predicted = f.task->predict(*f.backbone, in, {});
  EXPECT_EQ(predicted[0].sample, 4u);
  EXPECT_NEAR(predicted[0].value, evaluated[0].loss_sum / 3, 1e-6);
}

TEST(LanguageModel, APerfectModelIsRightEverywhere) {
  Fixture f("gpt2_lm", "lm", kConfig);
  BackboneInput in = f.collate({sample(4, {5, 6, 1, 9})});
  const at::Tensor best = f.task->logits(*f.backbone, in, {}).argmax(1);
  in.labels.narrow(0, 0, 3).copy_(best.narrow(0, 0, 3));
  const Metrics m = f.task->metrics(f.task->evaluate(*f.backbone, in, {}));
  EXPECT_EQ(m.at("token_accuracy"), 1);
}

TEST(LanguageModel, OutcomesHaveATokenWhereverThereIsALabel) {
  Fixture f("gpt2_lm", "lm", kConfig);
  const BackboneInput in =
      f.collate({sample(4, {5, 6, 1}), sample(5, {7, 8}, 0, {3, 1})});
  ForwardContext ctx;
  ctx.seed = 7;
  const auto outcomes = f.task->outcomes(*f.backbone, in, ctx);
  ASSERT_EQ(outcomes.size(), 1u);
  EXPECT_TRUE(outcomes[0].labels.ne(-100).equal(in.labels.ne(-100)));
  EXPECT_LT(outcomes[0].labels.max().item<std::int64_t>(), 41);
}

TEST(LanguageModel, ClassifiesByTheLastTokenToo) {
  Fixture f("gpt2_classify", "classify",
            {{"labels", 3},
             {"f1", "auto"},
             {"head_seed", 1},
             {"label_smoothing", 0.0}});
  const Parameters& p = f.backbone->parameters();
  EXPECT_TRUE(p.slot(p.require("score.weight")).head);
  EXPECT_EQ(p.find("score.bias"), -1);
  const auto logits = [&](std::vector<std::int32_t> ids) {
    return f.task->logits(*f.backbone, f.collate({sample(1, ids)}), {});
  };
  const at::Tensor one = logits({5, 6, 7});
  EXPECT_EQ(one.size(1), 3);
  const BackboneInput two =
      f.collate({sample(1, {9, 4}), sample(2, {5, 6, 7})});
  EXPECT_TRUE(golden_close("logits", f.task->logits(*f.backbone, two, {})[1],
                           one[0], 1e-6));
  // The head has no dropout of its own.
  f.backbone->set_dropout(0);
  ForwardContext training;
  training.training = true;
  EXPECT_TRUE(f.task->logits(*f.backbone, two, training)
                  .equal(f.task->logits(*f.backbone, two, {})));
}

TEST(LanguageModel, WhatCannotBeLearnedIsRefused) {
  const Fixture f("gpt2_lm", "lm", kConfig);
  EXPECT_THAT(usage_error([&] { f.collate({sample(3, {5})}); }),
              HasSubstr("sample 3: one token"));
  EXPECT_THAT(usage_error([&] {
                f.collate({sample(3, {5, 41})});
              }),
              HasSubstr("token 41"));
  // Prompt and target together must fit.
  EXPECT_THAT(usage_error([&] {
                f.collate({sample(3, std::vector<std::int32_t>(12, 5), 0,
                                  std::vector<std::int32_t>(8, 5))});
              }),
              HasSubstr("20 tokens, the model takes at most 19"));
  EXPECT_THAT(usage_error([] { Fixture("t5_tied", "lm", kConfig); }),
              HasSubstr("use text_to_text"));
  EXPECT_THAT(usage_error([] { Fixture("bert_bare", "lm", kConfig); }),
              HasSubstr("bert"));
  EXPECT_THAT(usage_error([] {
                Fixture("gpt2_lm", "text_to_text", test::writing_config({}));
              }),
              HasSubstr("gpt2"));
}

}  // namespace
}  // namespace thinwire
