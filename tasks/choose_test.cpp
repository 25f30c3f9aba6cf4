#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <fstream>
#include <nlohmann/json.hpp>

#include "models/test_models.h"
#include "tasks/test_samples.h"

namespace thinwire {
namespace {

using test::Fixture;
using test::usage_error;
using testing::HasSubstr;
using Json = nlohmann::ordered_json;

const TaskConfig kTFew = {{"lm", 1},
                          {"length_normalised", 1},
                          {"unlikelihood", 1},
                          {"length_norm", 1}};

Sample of_choices(std::uint64_t id, std::vector<std::int32_t> input,
                  const std::vector<std::vector<std::int32_t>>& choices,
                  double label) {
  Sample s = test::sample(id, std::move(input), label);
  for (const auto& choice : choices) {
    s.choices.push_back(static_cast<std::int32_t>(choice.size()));
    s.target.insert(s.target.end(), choice.begin(), choice.end());
  }
  return s;
}

std::vector<Sample> golden_samples(const Json& about) {
  std::vector<Sample> out;
  for (const Json& s : about.at("samples")) {
    out.push_back(of_choices(
        out.size(), s.at("input").get<std::vector<std::int32_t>>(),
        s.at("choices").get<std::vector<std::vector<std::int32_t>>>(),
        s.at("label").get<double>()));
  }
  return out;
}

TEST(Choose, LossesScoresAndGradientsAreTheReferences) {
  const std::string folder = golden_path("choose_t5");
  const Json about = Json::parse(std::ifstream(folder + "/samples.json"));
  const SafetensorsFile golden(folder + "/golden.safetensors");
  const std::vector<Sample> samples = golden_samples(about);
  for (const auto& [name, config] : about.at("cases").items()) {
    Fixture f(about.at("model").get<std::string>(), "choose", config);
    train_everything(*f.backbone);
    const BackboneInput in = f.collate(samples);
    const LossTerms loss = f.task->loss(*f.backbone, in, {});
    EXPECT_EQ(loss.weight, 3);
    const at::Tensor want = golden.tensor(name + ".loss");
    EXPECT_TRUE(golden_close(name, loss.sum, want.sum()));
    loss.sum.backward();
    const Parameters& p = f.backbone->parameters();
    int seen = 0;
    for (int i = 0; i < p.size(); ++i) {
      const std::string key = name + ".grad." + p.slot(i).name;
      if (!golden.contains(key)) continue;
      EXPECT_TRUE(golden_close(key, p.slot(i).leaf.grad(), golden.tensor(key)));
      ++seen;
    }
    EXPECT_GT(seen, name == "t_few" ? p.size() - 1 : 10);
    const auto rows = f.task->evaluate(*f.backbone, in, {});
    const auto predicted = f.task->predict(*f.backbone, in, {});
    const at::Tensor scores = golden.tensor(name + ".scores");
    std::int64_t at = 0;
    for (std::size_t b = 0; b < rows.size(); ++b) {
      const auto k = static_cast<std::int64_t>(b);
      const auto n = static_cast<std::int64_t>(samples[b].choices.size());
      EXPECT_NEAR(rows[b].loss_sum, want[k].item<double>(), 1e-4);
      const at::Tensor own = scores.narrow(0, at, n);
      const auto best = own.argmax().item<std::int64_t>();
      EXPECT_EQ(rows[b].prediction, best);
      ASSERT_EQ(predicted[b].scores.size(), static_cast<std::size_t>(n));
      EXPECT_NEAR(predicted[b].scores[static_cast<std::size_t>(best)],
                  own.softmax(0).max().item<double>(), 1e-5);
      at += n;
    }
  }
}

TEST(Choose, ABatchIsTheSumOfItsSamplesDropoutOn) {
  Fixture f("t5_gated", "choose", kTFew);
  const Json about =
      Json::parse(std::ifstream(golden_path("choose_t5") + "/samples.json"));
  const std::vector<Sample> samples = golden_samples(about);
  f.backbone->set_dropout(0.2);
  ForwardContext ctx;
  ctx.training = true;
  ctx.seed = 5;
  const at::Tensor whole =
      f.task->loss(*f.backbone, f.collate(samples), ctx).sum;
  double sum = 0;
  for (const Sample& s : samples) {
    sum += f.task->loss(*f.backbone, f.collate({s}), ctx).sum.item<double>();
  }
  EXPECT_NEAR(sum / whole.item<double>(), 1, 1e-5);
}

TEST(Choose, OutcomesAreTheAnswersByTheirScores) {
  Fixture f("t5_gated", "choose", kTFew);
  const Json about =
      Json::parse(std::ifstream(golden_path("choose_t5") + "/samples.json"));
  const BackboneInput in = f.collate(golden_samples(about));
  const auto outcomes = f.task->outcomes(*f.backbone, in, {});
  ASSERT_EQ(outcomes.size(), 4u);
  for (std::size_t b = 0; b < 3; ++b) {
    double sum = 0;
    for (std::size_t c = 0; c < outcomes.size(); ++c) {
      sum += outcomes[c].probabilities[b];
      if (static_cast<std::int64_t>(c) >= in.choices[b]) {
        EXPECT_EQ(outcomes[c].probabilities[b], 0);
      }
    }
    EXPECT_NEAR(sum, 1, 1e-6);
  }
}

TEST(Choose, TheChosenAnswersTokensArePredicted) {
  Fixture f("t5_gated", "choose", kTFew);
  const auto in = f.collate({of_choices(3, {5, 1}, {{9, 1}, {8, 3, 1}}, 0),
                             of_choices(4, {6, 1}, {{7, 1}, {4, 1}}, 1)});
  for (const Prediction& p : f.task->predict(*f.backbone, in, {})) {
    const bool second = p.value == 1;
    const std::vector<std::int32_t> want =
        p.sample == 3 ? (second ? std::vector<std::int32_t>{8, 3, 1}
                                : std::vector<std::int32_t>{9, 1})
                      : (second ? std::vector<std::int32_t>{4, 1}
                                : std::vector<std::int32_t>{7, 1});
    EXPECT_EQ(p.tokens, want);
  }
}

TEST(Choose, WhatDoesNotFitIsOneLine) {
  Fixture f("t5_gated", "choose", kTFew);
  EXPECT_THAT(usage_error([&] {
                f.collate({of_choices(3, {5, 1}, {{9, 1}}, 0)});
              }),
              HasSubstr("sample 3: has 1 choice"));
  EXPECT_THAT(usage_error([&] {
                f.collate({of_choices(3, {5, 1}, {{9, 1}, {8, 1}}, 2)});
              }),
              HasSubstr("sample 3: answer 2 is none of its 2 choices"));
  EXPECT_THAT(usage_error([&] {
                f.collate({test::sample(3, {5, 1})});
              }),
              HasSubstr("--task choose"));
  TaskConfig nothing = kTFew;
  for (const char* name : {"lm", "length_normalised", "unlikelihood"}) {
    nothing[name] = 0;
  }
  EXPECT_THAT(usage_error([&] { find_task("choose").make(nothing); }),
              HasSubstr("there is no loss"));
  EXPECT_THAT(usage_error([&] { Fixture("bert_classify", "choose", kTFew); }),
              HasSubstr("needs an encoder-decoder"));
}

}  // namespace
}  // namespace thinwire
