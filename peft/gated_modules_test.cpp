// Modules behind gates: open, they are the structure; between, a gate's
// gradient is the difference it makes; what is chosen is a structure again.
#include "peft/gated_modules.h"

#include <gtest/gtest.h>

#include <numeric>

#include "base/error.h"
#include "base/random.h"
#include "peft/testing.h"

namespace thinwire {
namespace {

using testing::Tiny;
using Numbers = std::vector<double>;

struct Gated {
  explicit Gated(const char* model, Config config = {{"reduction_factor", 4}})
      : tiny(model),
        method(make_method("sparse_structure", config)),
        structure(dynamic_cast<const StructureMethod&>(*method)),
        modules(*tiny.backbone, structure, 3) {
    // Away from where they start, at which nothing is added.
    for (const DeltaEntry& e : modules.delta().entries()) {
      if (e.head) continue;
      at::Tensor leaf = modules.delta().leaf(e.name).detach();
      fill_normal(leaf.mutable_data_ptr<float>(), e.count, 4, e.name, 0.05f);
    }
  }

  std::size_t size() const { return modules.modules().size(); }
  double loss() { return tiny.loss().detach().to(at::kDouble).item<double>(); }

  Tiny tiny;
  std::unique_ptr<Method> method;
  const StructureMethod& structure;
  GatedModules modules;
};

class OnModel : public ::testing::TestWithParam<const char*> {};

TEST_P(OnModel, OpenGatesAreTheStructure) {
  Gated gated(GetParam());
  const at::Tensor logits = gated.tiny.logits().detach();
  Tiny alone(GetParam());
  Delta delta = testing::declare(*gated.method, *alone.backbone);
  EXPECT_EQ(delta.trainable(), gated.modules.delta().trainable());
  for (const DeltaEntry& e : delta.entries()) {
    at::Tensor leaf = delta.leaf(e.name).detach();
    if (e.head) continue;
    // What has a tensor is that tensor, changed.
    const std::string module = e.name.substr(0, e.name.rfind('.'));
    const std::string added =
        module + (e.name.ends_with(".bias") ? ".added_bias" : ".added_gain");
    if (e.target.empty()) {
      leaf.copy_(gated.modules.delta().leaf(e.name).detach());
    } else {
      leaf.add_(gated.modules.delta().leaf(added).detach());
    }
  }
  alone.adopt(*gated.method, delta);
  EXPECT_TRUE(golden_close("logits", alone.logits(), logits, 1e-5));
}

TEST_P(OnModel, ClosedGatesAreTheBackbone) {
  Gated gated(GetParam());
  gated.modules.set_gates(Numbers(gated.size(), 0));
  Tiny bare(GetParam());
  EXPECT_TRUE(golden_close("logits", gated.tiny.logits(), bare.logits(), 1e-6));
}

TEST_P(OnModel, AGatesGradientIsWhatItChanges) {
  Gated gated(GetParam());
  Numbers z;
  for (std::size_t i = 0; i < gated.size(); ++i) {
    z.push_back(0.3 + 0.4 * static_cast<double>(i % 7) / 7);
  }
  gated.modules.set_gates(z);
  gated.modules.zero_grads();
  gated.tiny.loss().backward();
  const Numbers grads = gated.modules.gate_grads();
  const double square =
      std::inner_product(grads.begin(), grads.end(), grads.begin(), 0.0);
  ASSERT_GT(square, 0);
  // Along the gradient, so far that the loss moves by a hundredth.
  const double h = 0.01 / square;
  const auto at = [&](double by) {
    Numbers moved = z;
    for (std::size_t i = 0; i < z.size(); ++i) moved[i] += by * grads[i];
    gated.modules.set_gates(moved);
    return gated.loss();
  };
  EXPECT_NEAR((at(h) - at(-h)) / (2 * h) / square, 1, 1e-2);
  gated.modules.zero_grads();
  EXPECT_EQ(gated.modules.gate_grads(), Numbers(gated.size(), 0));
}

INSTANTIATE_TEST_SUITE_P(GatedModules, OnModel,
                         ::testing::Values("bart_text", "bert_classify",
                                           "gpt2_lm", "t5_gated"),
                         [](const auto& info) {
                           return std::string(info.param);
                         });

TEST(GatedModules, WhatIsChosenIsAStructure) {
  Gated gated("t5_gated");
  std::vector<int> chosen;
  std::int64_t numbers = 0;
  std::string lora, gain;
  for (std::size_t i = 0; i < gated.size(); i += 5) {
    chosen.push_back(static_cast<int>(i));
    numbers += gated.modules.counts()[i];
  }
  const Config config = gated.modules.chosen(chosen);
  EXPECT_EQ(config.at("found_on"), shape_of(*gated.tiny.backbone));
  const auto method = make_method("sparse_structure", config);
  Tiny alone("t5_gated");
  EXPECT_EQ(testing::declare(*method, *alone.backbone).trainable(), numbers);
  const auto& found = dynamic_cast<const StructureMethod&>(*method);
  const std::vector<DeltaModule> modules = found.modules(*alone.backbone);
  ASSERT_EQ(modules.size(), chosen.size());
  for (std::size_t i = 0; i < chosen.size(); ++i) {
    const DeltaModule& m =
        gated.modules.modules()[static_cast<std::size_t>(chosen[i])];
    EXPECT_EQ(modules[i].kind, m.kind);
    EXPECT_EQ(modules[i].site, m.site);
  }
  // A kind of which none was chosen is not all of that kind.
  const auto one = make_method("sparse_structure",
                               gated.modules.chosen(std::vector<int>{0}));
  EXPECT_EQ(testing::declare(*one, *alone.backbone).trainable(),
            gated.modules.counts()[0]);
}

TEST(GatedModules, ABudgetMustLeaveAChoice) {
  Gated gated("t5_gated");
  const Backbone& backbone = *gated.tiny.backbone;
  const auto refusal = [&](double budget) {
    try {
      numbers_within(budget, backbone, gated.modules);
    } catch (const UsageError& e) {
      return std::string(e.what());
    }
    return std::string();
  };
  const auto all = static_cast<double>(backbone.parameters().count(false));
  EXPECT_EQ(numbers_within(100, backbone, gated.modules), 100);
  EXPECT_EQ(numbers_within(200.5 / all, backbone, gated.modules), 200);
  EXPECT_EQ(refusal(19),
            "search: no module fits a budget of 19 numbers: the smallest, bias "
            "at encoder.block.0.layer.0.layer_norm, has 20; raise "
            "search.budget");
  const std::string everything = refusal(1e6);
  EXPECT_TRUE(everything.starts_with("search: all ")) << everything;
  EXPECT_TRUE(
      everything.ends_with("; train them as they are, or lower search.budget"))
      << everything;
}

}  // namespace
}  // namespace thinwire
