// Several methods on one backbone.
#include <gtest/gtest.h>

#include "base/error.h"
#include "peft/testing.h"

namespace thinwire {
namespace {

using testing::Tiny;
using testing::TinyScoring;
using Json = nlohmann::ordered_json;

TEST(Composition, SeveralMethodsShareOneDelta) {
  for (const char* model : {"bert_classify", "gpt2_lm"}) {
    Tiny tiny(model);
    TinyScoring scoring(tiny);
    const at::Tensor bare = tiny.logits().detach();
    const auto lora = make_method("lora", Json::object());
    const auto bitfit = make_method("bitfit", Json::object());
    const auto kadaptation = make_method("kadaptation", {{"t", 4}});
    const auto fish =
        make_method("fish_mask",
                    {{"density", 0.05}, {"samples", 3}, {"exclude", "*.bias"}});
    const auto all = {lora.get(), bitfit.get(), kadaptation.get(), fish.get()};
    DeltaBuilder builder;
    const DeclareContext context{.scoring = &scoring};
    for (Method* m : all) {
      m->declare(builder, *tiny.backbone, context);
    }
    Delta delta = builder.build();
    delta.bind(tiny.backbone->parameters());
    for (Method* m : all) {
      m->attach(*tiny.backbone, delta);
    }
    EXPECT_TRUE(tiny.logits().detach().equal(bare));
    EXPECT_EQ(delta.method_configs().size(), 4u);
    tiny.loss().backward();
    EXPECT_GT(delta.grads().norm().item<double>(), 0);
  }
}

TEST(Composition, TwoMethodsOnOneTensorAreNamed) {
  Tiny tiny("bert_classify");
  DeltaBuilder builder;
  make_method("full", Json::object())->declare(builder, *tiny.backbone, {});
  try {
    make_method("bitfit", Json::object())->declare(builder, *tiny.backbone, {});
    FAIL();
  } catch (const UsageError& e) {
    const std::string what = e.what();
    EXPECT_NE(what.find("full"), std::string::npos) << what;
    EXPECT_NE(what.find("bitfit"), std::string::npos) << what;
  }
}

}  // namespace
}  // namespace thinwire
