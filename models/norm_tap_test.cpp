// Taps at norms: where they stand, and what they replace.
#include <ATen/ops/full.h>
#include <ATen/ops/linspace.h>
#include <gtest/gtest.h>

#include "models/test_models.h"

namespace thinwire {
namespace {

struct Fixture {
  explicit Fixture(const char* name)
      : model(load_backbone(golden_path(name))),
        golden(golden_path(name) + "/golden.safetensors"),
        batch(golden_inputs(golden, model->config())) {}

  at::Tensor hidden() { return model->forward(batch.input, {}).hidden; }
  void attach(const char* norm, std::shared_ptr<TapAttachment> tap) {
    const int site = model->find_site(SiteKind::kTap, norm);
    ASSERT_GE(site, 0) << norm;
    model->attach(site, std::move(tap));
  }

  std::unique_ptr<Backbone> model;
  SafetensorsFile golden;
  HfBatch batch;
};

struct NormTap : TapAttachment {
  at::Tensor before, after;
  std::vector<at::Tensor> read, given;
  at::Tensor layer_input(const at::Tensor& x, const ForwardContext&) override {
    read.push_back(x);
    return before.defined() ? x.mul(before) : x;
  }
  at::Tensor layer_output(const at::Tensor& y, const ForwardContext&) override {
    given.push_back(y);
    return after.defined() ? y.add(after) : y;
  }
};

// Every norm runs once, and what its tap lets through is what it was.
TEST(NormTap, StandsAtEveryNorm) {
  for (const char* name :
       {"bart_text", "bert_bare", "gpt2_bare", "t5_tied", "t5_gated"}) {
    Fixture f(name);
    const at::Tensor plain = f.hidden();
    const Parameters& p = f.model->parameters();
    std::vector<std::shared_ptr<NormTap>> taps;
    for (std::size_t i = 0; i < f.model->sites().size(); ++i) {
      const Site& site = f.model->sites()[i];
      if (site.kind != SiteKind::kTap || site.weight < 0) continue;
      EXPECT_EQ(p.slot(site.weight).name, site.name + ".weight");
      if (site.bias >= 0) {
        EXPECT_EQ(p.slot(site.bias).name, site.name + ".bias");
      }
      taps.push_back(std::make_shared<NormTap>());
      f.model->attach(static_cast<int>(i), taps.back());
    }
    EXPECT_TRUE(golden_close("hidden", f.hidden(), plain, 1e-6)) << name;
    for (const auto& tap : taps) EXPECT_EQ(tap->given.size(), 1u) << name;
    std::size_t norms = 0;
    for (int i = 0; i < p.size(); ++i) {
      const std::string& slot = p.slot(i).name;
      norms += slot.ends_with("orm.weight") || slot.ends_with(".ln_1.weight") ||
               slot.ends_with(".ln_2.weight") ||
               slot.ends_with("ln_f.weight") ||
               slot.ends_with("layernorm_embedding.weight");
    }
    EXPECT_EQ(taps.size(), norms) << name;
  }
}

// What is added behind a norm is its bias; an RMS norm does not see how large
// its input is.
TEST(NormTap, ReplacesWhatTheNormReadsAndGives) {
  Fixture f("bert_bare"), biased("bert_bare");
  const char* name = "bert.encoder.layer.0.attention.output.LayerNorm";
  auto tap = std::make_shared<NormTap>();
  tap->after = at::linspace(-1, 1, 24, at::kFloat);
  f.attach(name, tap);
  Parameters& p = biased.model->parameters();
  const int slot = p.require(std::string(name) + ".bias");
  p.set_leaf(slot, p.slot(slot).frozen.add(tap->after));
  EXPECT_TRUE(golden_close("hidden", f.hidden(), biased.hidden(), 2e-6));

  Fixture t5("t5_tied"), doubled("t5_tied");
  tap = std::make_shared<NormTap>();
  tap->before = at::full({20}, 2.0f);
  doubled.attach("decoder.block.1.layer.1.layer_norm", tap);
  EXPECT_TRUE(golden_close("hidden", doubled.hidden(), t5.hidden(), 1e-5));
  EXPECT_EQ(tap->read.at(0).size(1), 20);
}

}  // namespace
}  // namespace thinwire
