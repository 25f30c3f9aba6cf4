#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>

#include "models/hf_inputs.h"
#include "tasks/test_samples.h"

namespace thinwire {
namespace {

using test::Fixture;
using test::sample;
using test::usage_error;
using testing::HasSubstr;

TaskConfig classes(std::int64_t labels) {
  return {{"labels", labels},
          {"f1", "auto"},
          {"head_seed", 1},
          {"label_smoothing", 0.0}};
}
const TaskConfig kRegress = {{"head_seed", 1}};

HfBatch golden_batch(const SafetensorsFile& golden, const ModelConfig& config) {
  NamedTensors inputs;
  for (const char* name :
       {"input_ids", "attention_mask", "token_type_ids", "labels"}) {
    if (golden.contains(name)) inputs.emplace_back(name, golden.tensor(name));
  }
  return read_hf_inputs(inputs, config);
}

std::int64_t golden_labels(const std::string& model) {
  return read_model_config(golden_path(model)).labels;
}

TEST(Classify, LogitsAndLossAreHfs) {
  Fixture f("bert_classify", "classify",
            classes(golden_labels("bert_classify")));
  const SafetensorsFile golden(golden_path("bert_classify/golden.safetensors"));
  const HfBatch batch = golden_batch(golden, f.backbone->config());
  const ForwardContext ctx;
  EXPECT_TRUE(golden_close("logits",
                           f.task->logits(*f.backbone, batch.input, ctx),
                           golden.tensor("logits")));
  const LossTerms terms = f.task->loss(*f.backbone, batch.input, ctx);
  EXPECT_TRUE(
      golden_close("loss", terms.sum.div(terms.weight), golden.tensor("loss")));

  const auto rows = f.task->evaluate(*f.backbone, batch.input, ctx);
  double loss = 0;
  for (const EvalRow& row : rows) loss += row.loss_sum / terms.weight;
  EXPECT_NEAR(loss, golden.tensor("loss").item<double>(), 1e-5);
  const auto predictions = f.task->predict(*f.backbone, batch.input, ctx);
  ASSERT_EQ(predictions.size(), rows.size());
  const at::Tensor p = golden.tensor("logits").softmax(1);
  for (std::size_t b = 0; b < rows.size(); ++b) {
    const auto row = static_cast<std::int64_t>(b);
    EXPECT_EQ(rows[b].prediction, p[row].argmax().item<double>());
    EXPECT_EQ(predictions[b].value, rows[b].prediction);
    EXPECT_EQ(rows[b].label, batch.input.labels[row].item<double>());
    for (std::size_t c = 0; c < predictions[b].scores.size(); ++c) {
      EXPECT_NEAR(predictions[b].scores[c],
                  p[row][static_cast<std::int64_t>(c)].item<double>(), 1e-5);
    }
  }
}

TEST(Classify, OutcomesAreAllClassesWithTheirProbabilities) {
  const std::int64_t labels = golden_labels("bert_classify");
  Fixture f("bert_classify", "classify", classes(labels));
  const BackboneInput in = f.collate({sample(3, {5, 6, 7}, 1)});
  const ForwardContext ctx;
  const auto outcomes = f.task->outcomes(*f.backbone, in, ctx);
  ASSERT_EQ(static_cast<std::int64_t>(outcomes.size()), labels);
  double total = 0;
  for (std::size_t c = 0; c < outcomes.size(); ++c) {
    BackboneInput other = in;
    other.labels = outcomes[c].labels;
    EXPECT_EQ(other.labels.item<std::int64_t>(), static_cast<std::int64_t>(c));
    const double loss =
        f.task->loss(*f.backbone, other, ctx).sum.item<double>();
    EXPECT_NEAR(outcomes[c].probabilities.at(0), std::exp(-loss), 1e-5);
    total += outcomes[c].probabilities.at(0);
  }
  EXPECT_NEAR(total, 1, 1e-12);
}

TEST(Classify, OutcomesOfABatchAreThoseOfItsSamples) {
  Fixture f("bert_classify", "classify",
            classes(golden_labels("bert_classify")));
  const std::vector<Sample> samples = {sample(3, {5, 6, 7}, 1),
                                       sample(4, {8, 9}, 0)};
  const auto both = f.task->outcomes(*f.backbone, f.collate(samples), {});
  for (std::size_t b = 0; b < 2; ++b) {
    const auto one = f.task->outcomes(*f.backbone, f.collate({samples[b]}), {});
    ASSERT_EQ(one.size(), both.size());
    for (std::size_t c = 0; c < one.size(); ++c) {
      EXPECT_EQ(both[c].labels.numel(), 2);
      EXPECT_NEAR(both[c].probabilities[b], one[c].probabilities[0], 1e-6);
    }
  }
}

TEST(Classify, HeadIsAddedAndRandomByNameWhereMissing) {
  Fixture f("bert_bare", "classify", classes(4));
  const Parameters& p = f.backbone->parameters();
  const auto& weight = p.slot(p.require("classifier.weight"));
  EXPECT_TRUE(weight.head);
  EXPECT_EQ(weight.frozen.sizes(),
            (std::vector<std::int64_t>{4, f.backbone->config().d_model}));
  EXPECT_GT(weight.frozen.std().item<double>(), 0.005);
  EXPECT_LT(weight.frozen.abs().max().item<double>(), 0.2);
  EXPECT_EQ(
      p.slot(p.require("classifier.bias")).frozen.abs().sum().item<float>(), 0);
  Fixture again("bert_bare", "classify", classes(4));
  const Parameters& q = again.backbone->parameters();
  EXPECT_TRUE(
      q.slot(q.require("classifier.weight")).frozen.equal(weight.frozen));
  TaskConfig seeded = classes(4);
  seeded["head_seed"] = 2;
  Fixture other("bert_bare", "classify", seeded);
  const Parameters& o = other.backbone->parameters();
  EXPECT_FALSE(
      o.slot(o.require("classifier.weight")).frozen.equal(weight.frozen));
  EXPECT_GE(f.backbone->find_site(SiteKind::kLinear, "classifier"), 0);
}

TEST(Classify, DropoutActsInTrainingAndFollowsTheSample) {
  Fixture f("bert_bare", "classify", classes(2));
  ForwardContext ctx;
  ctx.training = true;
  ctx.seed = 5;
  ctx.step = 3;
  const Sample a = sample(1, {5, 6, 7, 8}), b = sample(2, {9, 10});
  const at::Tensor ab =
      f.task->logits(*f.backbone, f.collate({a, b}), ctx).detach();
  const at::Tensor ba =
      f.task->logits(*f.backbone, f.collate({b, a}), ctx).detach();
  EXPECT_LT(ab.sub(ba.flip(0)).abs().max().item<double>(), 1e-5);
  ctx.step = 4;
  const at::Tensor later =
      f.task->logits(*f.backbone, f.collate({a, b}), ctx).detach();
  EXPECT_GT(ab.sub(later).abs().max().item<double>(), 1e-4);
}

// Samples of two tasks may have the same id.
TEST(Classify, DropoutOfOtherTasksIsDrawnAnew) {
  Fixture f("bert_bare", "classify", classes(2));
  ForwardContext ctx;
  ctx.training = true;
  ctx.seed = 5;
  const Sample first = sample(1, {5, 6, 7, 8});
  Sample second = first;
  second.task = 1;
  EXPECT_EQ(f.collate({first}).encoder.layout.samples[0].item<int>(), 1);
  const auto logits = [&](const std::vector<Sample>& samples) {
    return f.task->logits(*f.backbone, f.collate(samples), ctx).detach();
  };
  EXPECT_TRUE(logits({second}).equal(logits({first})));
  second.salt = 99;
  const BackboneInput both = f.collate({first, second});
  EXPECT_EQ(both.sample_ids, (std::vector<std::uint64_t>{1, 1}));
  const at::Tensor y = logits({first, second});
  EXPECT_GT(y[0].sub(y[1]).abs().max().item<double>(), 1e-4);
}

TEST(Classify, MetricsOfRows) {
  const std::vector<EvalRow> rows{{0, 1, 1, 0.5, 1},
                                  {1, 0, 1, 1.5, 1},
                                  {2, 0, 0, 0.25, 1},
                                  {3, 1, 1, 0.75, 1}};
  const Metrics m = find_task("classify").make(classes(2))->metrics(rows);
  EXPECT_DOUBLE_EQ(m.at("accuracy"), 0.75);
  EXPECT_DOUBLE_EQ(m.at("f1"), 0.8);
  EXPECT_NEAR(m.at("matthews"), 2 / std::sqrt(12.0), 1e-12);
  EXPECT_DOUBLE_EQ(m.at("loss"), 0.75);
  TaskConfig macro = classes(2);
  macro["f1"] = "macro";
  EXPECT_NEAR(find_task("classify").make(macro)->metrics(rows).at("f1"),
              (0.8 + 2.0 / 3) / 2, 1e-12);
}

TEST(Classify, BadSamplesAndConfigsAreNamed) {
  const Fixture f("bert_bare", "classify", classes(3));
  for (const double label : {3.0, -1.0, 0.5, std::nan("")}) {
    EXPECT_THAT(usage_error([&] { f.collate({sample(12, {5}, label)}); }),
                testing::AllOf(HasSubstr("sample 12"), HasSubstr("0 to 2")));
  }
  const std::vector<std::int32_t> longest(
      static_cast<std::size_t>(f.backbone->config().max_positions), 5);
  EXPECT_EQ(f.collate({sample(1, longest)}).encoder.tokens.numel(),
            f.backbone->config().max_positions);
  std::vector<std::int32_t> longer = longest;
  longer.push_back(5);
  EXPECT_THAT(usage_error([&] { f.collate({sample(13, longer)}); }),
              testing::AllOf(HasSubstr("sample 13"), HasSubstr("max-tokens")));
  Sample types = sample(14, {5, 6});
  types.types = {0, 9};
  EXPECT_THAT(
      usage_error([&] { f.collate({types}); }),
      testing::AllOf(HasSubstr("sample 14"), HasSubstr("segment id 9")));
  EXPECT_THAT(usage_error([] { find_task("classify").make(classes(1)); }),
              HasSubstr("task.labels is 1"));
  TaskConfig f1 = classes(2);
  f1["f1"] = "micro";
  EXPECT_THAT(usage_error([&] { find_task("classify").make(f1); }),
              HasSubstr("micro"));
  EXPECT_THAT(usage_error([] { Fixture("t5_tied", "classify", classes(2)); }),
              HasSubstr("text_to_text"));
}

TEST(Classify, SegmentsArePackedWhereAnySampleHasThem) {
  const Fixture f("bert_bare", "classify", classes(2));
  Sample pair = sample(2, {5, 6});
  pair.types = {0, 1};
  const BackboneInput in = f.collate({sample(1, {4}), pair});
  ASSERT_TRUE(in.encoder.types.defined());
  EXPECT_EQ(in.encoder.types.sum().item<std::int64_t>(), 1);
  EXPECT_EQ(in.encoder.types[2].item<std::int64_t>(), 1);
  EXPECT_FALSE(f.collate({sample(1, {4})}).encoder.types.defined());
}

TEST(Regress, LogitsAndLossAreHfs) {
  Fixture f("bert_regress", "regress", kRegress);
  const SafetensorsFile golden(golden_path("bert_regress/golden.safetensors"));
  const HfBatch batch = golden_batch(golden, f.backbone->config());
  const ForwardContext ctx;
  EXPECT_TRUE(golden_close("logits",
                           f.task->logits(*f.backbone, batch.input, ctx),
                           golden.tensor("logits")));
  const LossTerms terms = f.task->loss(*f.backbone, batch.input, ctx);
  EXPECT_TRUE(
      golden_close("loss", terms.sum.div(terms.weight), golden.tensor("loss")));
  const auto rows = f.task->evaluate(*f.backbone, batch.input, ctx);
  const auto predictions = f.task->predict(*f.backbone, batch.input, ctx);
  for (std::size_t b = 0; b < rows.size(); ++b) {
    const double error = rows[b].prediction - rows[b].label;
    EXPECT_DOUBLE_EQ(rows[b].loss_sum, error * error);
    EXPECT_EQ(predictions[b].value, rows[b].prediction);
  }
  const Metrics m = f.task->metrics(rows);
  EXPECT_EQ(m.size(), 3);
  EXPECT_NEAR(m.at("loss"), golden.tensor("loss").item<double>(), 1e-4);
}

TEST(Regress, OutcomesLieOneDeviationAround) {
  Fixture f("bert_bare", "regress", kRegress);
  const BackboneInput in = f.collate({sample(3, {5, 6, 7}, 1.5)});
  const ForwardContext ctx;
  const double value = f.task->logits(*f.backbone, in, ctx).item<double>();
  const auto outcomes = f.task->outcomes(*f.backbone, in, ctx);
  ASSERT_EQ(outcomes.size(), 2);
  double total = 0;
  for (const auto& o : outcomes) {
    EXPECT_NEAR(std::abs(o.labels.item<double>() - value), std::sqrt(0.5),
                1e-6);
    total += o.probabilities.at(0);
  }
  EXPECT_EQ(total, 1);
  EXPECT_THAT(usage_error([&] { f.collate({sample(9, {5}, 1e60)}); }),
              HasSubstr("sample 9"));
}

TEST(Tasks, RegistryIsSortedAndSaysWhatItKnows) {
  std::vector<std::string_view> kinds;
  for (const TaskInfo& info : tasks()) {
    kinds.push_back(info.kind);
    EXPECT_EQ(&find_task(info.kind), &info);
    EXPECT_FALSE(info.about.empty());
  }
  EXPECT_THAT(kinds, testing::ElementsAre("choose", "classify", "lm", "regress",
                                          "span_corruption", "text_to_text"));
  EXPECT_THAT(usage_error([] { find_task("clasify"); }),
              HasSubstr("'clasify' is unknown; choose one of: classify"));
}

}  // namespace
}  // namespace thinwire
