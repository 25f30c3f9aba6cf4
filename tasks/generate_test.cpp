// Written text against HF's generate() (tests/golden/make_generate.py).
#include "tasks/generate.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <fstream>
#include <map>
#include <nlohmann/json.hpp>
#include <set>

#include "base/temp_folder.h"
#include "tasks/test_samples.h"

namespace thinwire {
namespace {

using test::sample;
using test::usage_error;
using test::writing_config;
using testing::HasSubstr;
using Json = nlohmann::ordered_json;

Json golden() {
  return Json::parse(std::ifstream(golden_path("generate.json")));
}

TEST(Generate, GreedyAndBeamsAreHfs) {
  const Json file = golden();
  const auto samples = test::samples_of(file.at("inputs"));
  std::size_t beams = 0, ended = 0;
  std::set<std::int32_t> seen;
  for (const Json& c : file.at("cases")) {
    SCOPED_TRACE(c.at("model").dump() + c.at("config").dump());
    const TempFolder configs;
    const bool own = c.contains("model_config");
    if (own) {
      std::ofstream(configs / "config.json") << c.at("model_config");
      if (const Json& g = c.at("generation_config"); !g.is_null()) {
        std::ofstream(configs / "generation_config.json") << g;
      }
    }
    const auto backbone =
        test::model_of(c.at("model").get<std::string>(), c.at("eos"),
                       c.at("sharpen"), own ? configs.path() : "");
    Json config = c.at("config");
    if (config.contains("early_stopping")) {  // HF: true, false or a word
      Json& stop = config["early_stopping"];
      if (stop.is_boolean()) stop = stop.get<bool>() ? "true" : "false";
    }
    const auto task = test::writer_for(*backbone, config);
    const auto texts = task->predict(
        *backbone, task->collate(samples, backbone->config()), {});
    ASSERT_EQ(texts.size(), samples.size());
    for (std::size_t b = 0; b < texts.size(); ++b) {
      const auto want = c.at("outputs")[b].get<std::vector<std::int32_t>>();
      EXPECT_EQ(texts[b].tokens, want) << b;
      EXPECT_EQ(texts[b].sample, b);
      ended += want.size() < config.at("max_new_tokens") ? 1 : 0;
      seen.insert(want.begin(), want.end());
      if (c.at("scores").empty()) continue;
      // Sums of at most 14 log-probabilities, in fp32 on both sides.
      const double score = c.at("scores")[b];
      EXPECT_NEAR(texts[b].value, score, 2e-5 * std::abs(score)) << b;
      ++beams;
    }
  }
  EXPECT_GE(beams, 100u);
  EXPECT_GE(ended, 60u);        // texts of several lengths ended by themselves
  EXPECT_GE(seen.size(), 30u);  // and are not one word again and again
}

TEST(Generate, TextsThatHaveNoRoomAreRefused) {
  const auto samples = test::samples_of(golden().at("inputs"));
  const auto refusal = [&](const std::string& model, std::int64_t most) {
    const auto backbone = test::model_of(model, -1);
    const auto task = test::writer_for(*backbone, {{"max_new_tokens", most}});
    return usage_error([&] {
      task->predict(*backbone, task->collate(samples, backbone->config()), {});
    });
  };
  // The last token needs no position.
  EXPECT_EQ(refusal("gpt2_lm", 8), "no error");
  EXPECT_THAT(refusal("gpt2_lm", 9),
              HasSubstr("9 new tokens behind the 12 of sample 4"));
  EXPECT_EQ(refusal("bart_text", 20), "no error");
  EXPECT_THAT(refusal("bart_text", 21),
              HasSubstr("are more than the 20 positions of this bart"));
}

TEST(Generate, ABatchIsWrittenAsEachOfItsSamplesAlone) {
  const auto samples = test::samples_of(golden().at("inputs"));
  const auto backbone = test::model_of("t5_gated", 31, 0.5);
  for (const TaskConfig& changes :
       {TaskConfig{{"max_new_tokens", 14}},
        TaskConfig{{"max_new_tokens", 14}, {"num_beams", 3}},
        TaskConfig{{"max_new_tokens", 14}, {"do_sample", true}}}) {
    const auto task = find_task("text_to_text").make(writing_config(changes));
    const auto together = task->predict(
        *backbone, task->collate(samples, backbone->config()), {});
    for (std::size_t b = 0; b < samples.size(); ++b) {
      const auto alone = task->predict(
          *backbone, task->collate({&samples[b], 1}, backbone->config()), {});
      EXPECT_EQ(together[b].tokens, alone[0].tokens) << b << changes;
      EXPECT_NEAR(together[b].value, alone[0].value,
                  2e-5 * std::abs(alone[0].value));
    }
  }
}

TEST(Generate, ScoreIsTheLogProbabilityOfTheText) {
  const auto samples = test::samples_of(golden().at("inputs"));
  const auto backbone = test::model_of("t5_gated", 31);
  const auto task =
      find_task("text_to_text").make(writing_config({{"max_new_tokens", 14}}));
  const auto texts =
      task->predict(*backbone, task->collate(samples, backbone->config()), {});
  for (std::size_t b = 0; b < texts.size(); ++b) {
    Sample written = samples[b];
    written.target = texts[b].tokens.value();
    if (written.target.size() < 14) written.target.push_back(31);
    const LossTerms loss = task->loss(
        *backbone, task->collate({&written, 1}, backbone->config()), {});
    EXPECT_NEAR(texts[b].value, -loss.sum.item<double>(), 1e-3) << b;
  }
}

TEST(Choices, AreWhatHfsProcessorsLeave) {
  const Json file = golden();
  std::size_t checked = 0;
  for (const Json& d : file.at("distributions")) {
    const auto logits = d.at("logits").get<std::vector<float>>();
    for (const Json& k : d.at("kept")) {
      SCOPED_TRACE(std::to_string(logits.size()) + k.at("top_p").dump());
      const auto got = choices(logits, {.temperature = k.at("temperature"),
                                        .top_k = k.at("top_k"),
                                        .top_p = k.at("top_p")});
      const auto tokens = k.at("tokens").get<std::vector<std::int64_t>>();
      ASSERT_EQ(got.size(), tokens.size());
      for (std::size_t i = 0; i < got.size(); ++i) {
        EXPECT_EQ(got[i].token, tokens[i]);
        const double want = k.at("probabilities")[i];
        EXPECT_NEAR(got[i].probability, want, 2e-6 * want + 1e-9);
      }
      ++checked;
    }
  }
  EXPECT_EQ(checked, 13u);
}

TEST(DrawToken, FollowsTheChoicesAndTheSampleAlone) {
  const std::vector<float> logits{1, 2, 0.5, 2.5, -1, 1.5};
  const Decoding how{.do_sample = true,
                     .temperature = 0.8,
                     .top_k = 0,
                     .top_p = 0.9,
                     .sample_seed = 5};
  constexpr int kDraws = 20000;
  std::map<std::int64_t, double> counts;
  for (int i = 0; i < kDraws; ++i) {
    const auto id = static_cast<std::uint64_t>(i) << 30;
    const auto token = draw_token(logits, id, 3, how);
    EXPECT_EQ(draw_token(logits, id, 3, how), token);
    ++counts[token];
  }
  const auto kept = choices(logits, how);
  EXPECT_EQ(counts.size(), kept.size());
  for (const Choice& c : kept) {
    // Four standard deviations; the draws themselves are fixed.
    EXPECT_NEAR(counts[c.token] / kDraws, c.probability,
                4 * std::sqrt(c.probability / kDraws));
  }
  const auto drawn = [&](std::uint64_t seed, std::uint64_t id,
                         std::int64_t written) {
    Decoding other = how;
    other.sample_seed = seed;
    return draw_token(logits, id, written, other);
  };
  std::vector<std::int64_t> base, by_seed, by_id, by_place;
  for (std::int64_t i = 0; i < 30; ++i) {
    base.push_back(drawn(5, 1, i));
    by_seed.push_back(drawn(6, 1, i));
    by_id.push_back(drawn(5, 2, i));
    by_place.push_back(drawn(5, 1, i + 1));
  }
  EXPECT_NE(base, by_seed);
  EXPECT_NE(base, by_id);
  EXPECT_NE(base, by_place);
}

TEST(Decoding, BadFieldsAreNamed) {
  const auto refusal = [](const TaskConfig& changes) {
    return usage_error(
        [&] { find_task("text_to_text").make(writing_config(changes)); });
  };
  EXPECT_EQ(refusal({{"num_beams", 2}}), "no error");
  EXPECT_THAT(refusal({{"max_new_tokens", 0}}),
              HasSubstr("task.max_new_tokens is 0; it must be at least 1"));
  EXPECT_THAT(refusal({{"min_new_tokens", 129}}),
              HasSubstr("min_new_tokens is 129"));
  EXPECT_THAT(refusal({{"num_beams", 0}}), HasSubstr("num_beams is 0"));
  EXPECT_THAT(refusal({{"temperature", 0}}), HasSubstr("do_sample: false"));
  EXPECT_THAT(refusal({{"top_p", 1.5}}), HasSubstr("in (0, 1]"));
  EXPECT_THAT(refusal({{"top_k", -1}}), HasSubstr("top_k is -1"));
  EXPECT_THAT(refusal({{"no_repeat_ngram_size", -2}}), HasSubstr("is -2"));
  EXPECT_THAT(refusal({{"early_stopping", "maybe"}}),
              HasSubstr("true, false or never"));
  EXPECT_THAT(refusal({{"do_sample", true}, {"num_beams", 2}}),
              HasSubstr("beams are not drawn"));
  EXPECT_THAT(refusal({{"metrics", {"rouge", "blue"}}}),
              testing::AllOf(HasSubstr("'blue'"), HasSubstr("bleu")));
  const auto backbone = test::model_of("t5_tied", 1);
  const auto task =
      find_task("text_to_text").make(writing_config({{"num_beams", 21}}));
  const std::vector<Sample> samples{sample(0, {5, 1}, 0, {1})};
  EXPECT_THAT(usage_error([&] {
                task->predict(*backbone,
                              task->collate(samples, backbone->config()), {});
              }),
              HasSubstr("a vocabulary of 41 allows 20"));
}

TEST(Decoding, EveryFieldIsInTheTestsConfig) {
  for (const Field& field : find_task("text_to_text").fields) {
    EXPECT_TRUE(writing_config().contains(std::string(field.name)))
        << field.name;
  }
}

}  // namespace
}  // namespace thinwire
