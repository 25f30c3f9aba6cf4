// Text written through a cache while methods are attached, against one pass
// over the whole text with the same methods, which peft/golden_test.cpp holds
// to other implementations.
#include <gtest/gtest.h>

#include <cmath>
#include <fstream>
#include <nlohmann/json.hpp>

#include "peft/field_values.h"
#include "peft/testing.h"
#include "tasks/task.h"

namespace thinwire {
namespace {

using Json = nlohmann::ordered_json;

std::unique_ptr<Task> writer(const Json& changes) {
  const TaskInfo& info = find_task("text_to_text");
  return info.make(complete_fields(info.kind, info.fields, changes));
}

std::vector<Sample> inputs() {
  std::vector<Sample> out;
  for (const std::vector<std::int32_t>& ids :
       {std::vector<std::int32_t>{30, 34, 33, 5, 15, 1},
        {38, 1},
        {20, 4, 39, 21, 33, 2, 7, 7, 20, 1},
        {36, 5, 35}}) {
    Sample s;
    s.id = out.size();
    s.input = ids;
    s.target = {1};
    out.push_back(s);
  }
  return out;
}

class Generate : public ::testing::TestWithParam<const char*> {};

TEST_P(Generate, WithMethodsAttached) {
  const std::string folder = golden_path(GetParam());
  const Json about = Json::parse(std::ifstream(folder + "/adapter.json"));
  const SafetensorsFile golden(folder + "/golden.safetensors");
  testing::Tiny tiny(about.at("model").get<std::string>());
  testing::TinyScoring scoring(tiny);
  const auto method =
      make_method(about.at("method").get<std::string>(), about.at("config"));
  Delta delta =
      testing::declare(*method, *tiny.backbone, {.scoring = &scoring});
  for (std::size_t i = 0; i < delta.entries().size(); ++i) {
    delta.leaf(static_cast<int>(i))
        .detach()
        .copy_(golden.tensor("value." + delta.entries()[i].name));
  }
  const auto bare = writer({{"max_new_tokens", 10}});
  const auto before = bare->predict(
      *tiny.backbone, bare->collate(inputs(), tiny.backbone->config()), {});
  tiny.adopt(*method, delta);

  std::size_t changed = 0;
  for (const int beams : {1, 3}) {
    const auto task = writer(
        {{"max_new_tokens", 10}, {"num_beams", beams}, {"length_penalty", 0}});
    std::vector<Sample> samples = inputs();
    const auto texts = task->predict(
        *tiny.backbone, task->collate(samples, tiny.backbone->config()), {});
    for (std::size_t b = 0; b < texts.size(); ++b) {
      samples[b].target = texts[b].tokens.value();
      if (samples[b].target.size() < 10) samples[b].target.push_back(1);
      changed += texts[b].tokens != before[b].tokens ? 1 : 0;
    }
    const auto rows = task->evaluate(
        *tiny.backbone, task->collate(samples, tiny.backbone->config()), {});
    for (std::size_t b = 0; b < texts.size(); ++b) {
      // Sums of ten log-probabilities of some units each, in fp32.
      EXPECT_NEAR(-texts[b].value, rows[b].loss_sum,
                  2e-5 * std::abs(rows[b].loss_sum) + 1e-4)
          << beams << " beams, text " << b;
      EXPECT_TRUE(beams > 1 || rows[b].prediction == 1) << b;
    }
  }
  EXPECT_GT(changed, 0u);  // the method does act
}

INSTANTIATE_TEST_SUITE_P(
    Methods, Generate,
    ::testing::Values("lora_t5", "lora_t5_gated", "bitfit_t5",
                      "compacter_t5_feed_forward", "fish_t5",
                      "houlsby_t5_cross", "ia3_t5", "parallel_adapter_t5",
                      "prefix_tuning_t5", "prefix_tuning_t5_computed",
                      "prompt_tuning_t5"),
    [](const auto& info) { return std::string(info.param); });

}  // namespace
}  // namespace thinwire
