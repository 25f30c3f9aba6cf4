// Figures of texts against the packages that define them
// (tests/golden/make_text_metrics.py).
#include "tasks/text_metrics.h"

#include <gtest/gtest.h>

#include <fstream>
#include <nlohmann/json.hpp>
#include <sstream>
#include <vector>

#include "tasks/porter.h"
#include "tests/harness/golden.h"

namespace thinwire {
namespace {

using Json = nlohmann::json;
using Texts = std::vector<std::string>;

// The same formula on the same whole numbers, in double precision.
constexpr double kRounding = 1e-12;

class TextMetrics : public testing::Test {
 protected:
  Json golden_ = Json::parse(std::ifstream(golden_path("text_metrics.json")));
};

TEST_F(TextMetrics, RougeIsRougeScores) {
  for (const Json& pair : golden_.at("pairs")) {
    const Texts references = pair.at("references");
    for (const bool stem : {false, true}) {
      const Rouge got = rouge(pair.at("text"), references, stem);
      const std::vector<double> want =
          pair.at(stem ? "rouge_stemmed" : "rouge");
      EXPECT_NEAR(got.rouge1, want[0], kRounding) << stem << pair;
      EXPECT_NEAR(got.rouge2, want[1], kRounding) << stem << pair;
      EXPECT_NEAR(got.rouge_l, want[2], kRounding) << stem << pair;
    }
  }
}

TEST_F(TextMetrics, StemsAreNltks) {
  std::istringstream stems(golden_.at("stems").get<std::string>());
  std::size_t changed = 0, words = 0;
  for (std::string item; stems >> item; ++words) {
    const std::size_t colon = item.find(':');
    const std::string word = item.substr(0, colon);
    const std::string stem = porter_stem(word);
    EXPECT_EQ(stem, item.substr(colon + 1)) << word;
    changed += stem != word ? 1 : 0;
  }
  EXPECT_GT(words, 2000u);
  EXPECT_GT(changed, 1500u);
}

TEST_F(TextMetrics, TokensAre13a) {
  for (const Json& pair : golden_.at("pairs")) {
    EXPECT_EQ(tokenise_13a(pair.at("text").get<std::string>()),
              pair.at("tokens_13a").get<std::string>());
  }
}

TEST_F(TextMetrics, BleuIsSacrebleus) {
  BleuCounts all, few;
  for (std::size_t i = 0; i < golden_.at("pairs").size(); ++i) {
    const Json& pair = golden_.at("pairs")[i];
    const Texts references = pair.at("references");
    const BleuCounts counts = bleu_counts(pair.at("text"), references);
    EXPECT_EQ(counts.length, pair.at("lengths")[0]) << pair;
    EXPECT_EQ(counts.reference_length, pair.at("lengths")[1]) << pair;
    for (std::size_t n = 0; n < 4; ++n) {
      EXPECT_EQ(counts.matches[n], pair.at("matches")[n]) << pair;
      EXPECT_EQ(counts.total[n], pair.at("total")[n]) << pair;
    }
    EXPECT_NEAR(bleu(counts), pair.at("bleu").get<double>(), 1e-10) << pair;
    all += counts;
    if (i == 0 || i == 1 || i == 13) few += counts;
  }
  EXPECT_NEAR(bleu(all), golden_.at("corpus_bleu").get<double>(), 1e-10);
  EXPECT_NEAR(bleu(few), golden_.at("smoothed_bleu").get<double>(), 1e-10);
  EXPECT_GT(bleu(few), 0);
}

TEST_F(TextMetrics, SquadIsTheOfficialScripts) {
  for (const Json& pair : golden_.at("pairs")) {
    const Texts references = pair.at("references");
    const Squad got = squad(pair.at("text"), references);
    EXPECT_EQ(got.exact_match, pair.at("squad")[0].get<double>()) << pair;
    EXPECT_NEAR(got.f1, pair.at("squad")[1].get<double>(), kRounding) << pair;
  }
}

}  // namespace
}  // namespace thinwire
