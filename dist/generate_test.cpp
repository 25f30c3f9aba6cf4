// Text written through a cache while methods are attached: against one pass
// over the whole text with the same methods, which peft/golden_test.cpp holds
// to other implementations, and against HF peft's generate()
// (tests/golden/make_generate_peft.py).
#include <gtest/gtest.h>

#include <cmath>
#include <fstream>
#include <nlohmann/json.hpp>

#include "peft/interop/adapter_folder.h"
#include "peft/testing.h"
#include "tasks/test_samples.h"

namespace thinwire {
namespace {

using Json = nlohmann::ordered_json;

constexpr std::int64_t kMost = 8;  // new tokens

std::vector<Sample> inputs() {
  auto out = test::samples_of({{30, 34, 33, 5, 15, 1},
                               {38, 1},
                               {20, 4, 39, 21, 33, 2, 7},
                               {36, 5, 35}});
  for (Sample& s : out) s.task = static_cast<std::int32_t>(s.id % 2);
  return out;
}

struct Batch {
  Batch(const Task& task, const std::vector<Sample>& samples,
        const Backbone& backbone)
      : in(task.collate(samples, backbone.config())) {
    ctx.tasks = in.tasks;
  }
  BackboneInput in;
  ForwardContext ctx;
};

struct Case {
  const char* folder;
  Json changes = Json::object();
};

class WithMethods : public ::testing::TestWithParam<Case> {};

TEST_P(WithMethods, TextIsWhatOnePassOverItSays) {
  const std::string folder = golden_path(GetParam().folder);
  const Json about = Json::parse(std::ifstream(folder + "/adapter.json"));
  const SafetensorsFile golden(folder + "/golden.safetensors");
  testing::Tiny tiny(about.at("model").get<std::string>());
  testing::TinyScoring scoring(tiny);
  Json config = about.at("config");
  config.update(GetParam().changes);
  const auto method =
      make_method(about.at("method").get<std::string>(), config);
  Delta delta =
      testing::declare(*method, *tiny.backbone, {.scoring = &scoring});
  for (std::size_t i = 0; i < delta.entries().size(); ++i) {
    delta.leaf(static_cast<int>(i))
        .detach()
        .copy_(golden.tensor("value." + delta.entries()[i].name));
  }
  Backbone& backbone = *tiny.backbone;
  const auto predict = [&](Task& task) {
    const Batch batch(task, inputs(), backbone);
    return task.predict(backbone, batch.in, batch.ctx);
  };
  const auto before =
      predict(*test::writer_for(backbone, {{"max_new_tokens", kMost}}));
  tiny.adopt(*method, delta);

  std::size_t changed = 0;
  for (const int beams : {1, 3}) {
    const auto task = test::writer_for(backbone, {{"max_new_tokens", kMost},
                                                  {"num_beams", beams},
                                                  {"length_penalty", 0}});
    const auto texts = predict(*task);
    std::vector<Sample> samples = inputs();
    for (std::size_t b = 0; b < texts.size(); ++b) {
      samples[b].target = texts[b].tokens.value();
      if (samples[b].target.size() < kMost) {
        samples[b].target.push_back(
            static_cast<std::int32_t>(backbone.config().eos_id));
      }
      changed += texts[b].tokens != before[b].tokens ? 1 : 0;
    }
    const Batch whole(*task, samples, backbone);
    const auto rows = task->evaluate(backbone, whole.in, whole.ctx);
    for (std::size_t b = 0; b < texts.size(); ++b) {
      // Sums of eight log-probabilities of some units each, in fp32.
      EXPECT_NEAR(-texts[b].value, rows[b].loss_sum,
                  2e-5 * std::abs(rows[b].loss_sum) + 1e-4)
          << beams << " beams, text " << b;
      // Every token is the likeliest.
      EXPECT_TRUE(beams > 1 || rows[b].prediction == rows[b].label) << b;
    }
  }
  EXPECT_GT(changed, 0u);  // the method does act
}

// As HF peft has prompts, and prefixes: positions begin behind them.
const Json kFront = {{"front", true}};
const Json kShifted = {{"shift_positions", true}};

INSTANTIATE_TEST_SUITE_P(
    Generate, WithMethods,
    ::testing::Values(
        Case{"lora_t5"}, Case{"lora_t5_gated"}, Case{"bitfit_t5"},
        Case{"compacter_t5_feed_forward"}, Case{"fish_t5"},
        Case{"houlsby_t5_cross"}, Case{"ia3_t5"}, Case{"parallel_adapter_t5"},
        Case{"prefix_tuning_t5"}, Case{"prefix_tuning_t5", kShifted},
        Case{"prefix_tuning_t5_computed"}, Case{"prompt_tuning_t5"},
        Case{"attempt_t5"}, Case{"hyperprompt_t5_share"},
        Case{"hyperformer_t5"}, Case{"houlsby_bart"},
        Case{"prefix_tuning_bart"}, Case{"prefix_tuning_bart", kShifted},
        Case{"prompt_tuning_bart"}, Case{"prompt_tuning_bart", kFront},
        Case{"bitfit_gpt2"}, Case{"houlsby_gpt2"}, Case{"lora_gpt2_all"},
        Case{"prefix_tuning_gpt2"}, Case{"prefix_tuning_gpt2", kShifted},
        Case{"prompt_tuning_gpt2"}, Case{"prompt_tuning_gpt2", kFront}),
    [](const auto& info) {
      std::string name = info.param.folder;
      for (const auto& item : info.param.changes.items()) {
        name += "_" + item.key();
      }
      return name;
    });

TEST(Generate, WritesWhatHfPeftWrites) {
  const Json file = testing::read_json(golden_path("generate_peft.json"));
  const auto samples = test::samples_of(file.at("inputs"));
  std::size_t ended = 0, beams = 0;
  for (const Json& c : file.at("cases")) {
    SCOPED_TRACE(c.at("adapter").dump() + c.at("config").dump());
    const std::string folder =
        golden_path("interop/" + c.at("adapter").get<std::string>());
    const auto backbone =
        test::model_of(testing::read_json(folder + "/about.json").at("model"),
                       c.at("eos"), c.at("sharpen"));
    AdapterFolder read = read_adapter_folder(folder, *backbone);
    backbone->parameters().freeze_all();
    read.delta.bind(backbone->parameters());
    read.method->attach(*backbone, read.delta);
    const auto task = test::writer_for(*backbone, c.at("config"));
    const auto texts = task->predict(
        *backbone, task->collate(samples, backbone->config()), {});
    for (std::size_t b = 0; b < texts.size(); ++b) {
      const auto want = c.at("outputs")[b].get<std::vector<std::int32_t>>();
      EXPECT_EQ(texts[b].tokens, want) << b;
      ended += want.size() < 8 ? 1 : 0;
      if (c.at("scores").empty()) continue;
      // Sums of at most 8 log-probabilities, in fp32 on both sides.
      const double score = c.at("scores")[b];
      EXPECT_NEAR(texts[b].value, score, 2e-5 * std::abs(score)) << b;
      ++beams;
    }
  }
  EXPECT_EQ(beams, 36u);
  EXPECT_GE(ended, 20u);
}

}  // namespace
}  // namespace thinwire
