// Backbones, attachments and masks off the CPU: on LibTorch's device of shapes
// without numbers, where whatever looks at memory, or mixes devices, throws.
#include <gtest/gtest.h>

#include "models/parameters.h"
#include "peft/method_tools.h"
#include "peft/testing.h"

namespace thinwire {
namespace {

using testing::Tiny;
using Json = nlohmann::ordered_json;

struct Case {
  std::string method;
  Json config;
  std::string model;
  bool bf16;
};

void PrintTo(const Case& c, std::ostream* out) {
  *out << c.method << " on " << c.model << (c.bf16 ? " in bf16" : "");
}

std::vector<Case> cases() {
  std::vector<Case> out;
  for (const MethodInfo& info : methods()) {
    for (const char* model : {"bert_classify", "t5_tied", "t5_gated"}) {
      const bool bert = model == std::string("bert_classify");
      if (info.id == "head" && !bert) continue;
      Json config = Json::object();
      if (info.id == "fish_mask") {
        config = {{"density", 0.1}, {"samples", 3}};
      }
      if (info.id == "bitfit" && !bert) config = {{"add_missing", true}};
      if (info.id == "houlsby" || info.id == "pfeiffer") {
        config = {{"bottleneck", 5}};
      }
      for (const bool bf16 : {false, true}) {
        out.push_back({std::string(info.id), config, model, bf16});
      }
    }
  }
  return out;
}

class OffTheCpu : public ::testing::TestWithParam<Case> {};
INSTANTIATE_TEST_SUITE_P(Methods, OffTheCpu, ::testing::ValuesIn(cases()));

TEST_P(OffTheCpu, AStepTouchesNoMemoryOfTheCpu) {
  const Case& c = GetParam();
  Tiny tiny(c.model, c.bf16);
  const auto method = make_method(c.method, c.config);
  testing::TinyScoring scoring(tiny);
  Delta delta =
      testing::declare(*method, *tiny.backbone, {.scoring = &scoring});
  tiny.backbone->set_dropout(0.1);
  tiny.backbone->parameters().move_to(at::kMeta);
  delta.place(at::kMeta);
  tiny.adopt(*method, delta);
  for (const bool checkpointed : {false, true}) {
    ForwardContext ctx;
    ctx.training = true;
    ctx.checkpoint_blocks = checkpointed;
    const at::Tensor loss = tiny.loss(tiny.batch.input, ctx);
    EXPECT_TRUE(loss.is_meta());
    loss.backward();
  }
  for (std::size_t i = 0; i < delta.entries().size(); ++i) {
    EXPECT_TRUE(delta.leaf(static_cast<int>(i)).grad().is_meta());
  }
  EXPECT_TRUE(delta.values().is_cpu());
}

}  // namespace
}  // namespace thinwire
