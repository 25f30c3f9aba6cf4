// What a network beside the backbone reads, kept as numbers, takes the place of
// the backbone's own pass.
#include "models/side_features.h"

#include <ATen/ops/full.h>
#include <gtest/gtest.h>

#include <limits>

#include "base/error.h"
#include "models/side_network.h"
#include "peft/testing.h"

namespace thinwire {
namespace {

using testing::Tiny;
using testing::TinyScoring;
using Json = nlohmann::ordered_json;

// A ladder beside a tiny backbone, and what else trains.
struct Tuned {
  explicit Tuned(const std::string& model, const Json& more = Json::object(),
                 const std::string& beside = "", const Json& with = {})
      : tiny(model) {
    Json config{{"reduction_factor", 2},
                {"encoder_layers", {0, 1}},
                {"init", "magnitude"}};
    config.update(more);
    methods.push_back(make_method("lst", config));
    if (!beside.empty()) methods.push_back(make_method(beside, with));
    TinyScoring scoring(tiny);
    DeltaBuilder builder;
    for (const auto& m : methods) {
      m->declare(builder, *tiny.backbone, {.scoring = &scoring});
    }
    delta = builder.build();
    delta.bind(tiny.backbone->parameters());
    for (const auto& m : methods) m->attach(*tiny.backbone, delta);
  }

  std::vector<Features> features(const BackboneInput& in) {
    return make_features(*tiny.backbone, in,
                         [&] { tiny.backbone->forward(in, {}); });
  }
  std::vector<Features> features() { return features(tiny.batch.input); }

  void give(const std::vector<Features>& all, BackboneInput& in) const {
    std::vector<const Features*> each;
    for (const Features& f : all) each.push_back(&f);
    give_features(*tiny.backbone, each, in);
  }

  struct Step {
    double loss = 0;
    at::Tensor grads;
  };
  Step step(const BackboneInput& in, bool training = true) {
    delta.zero_grads();
    ForwardContext ctx;
    ctx.training = training;
    ctx.seed = 3;
    const at::Tensor loss = tiny.loss(in, ctx);
    loss.backward();
    delta.pull_grads();
    return {loss.item<double>(), delta.grads().clone()};
  }

  Tiny tiny;
  std::vector<std::unique_ptr<Method>> methods;
  Delta delta;
};

// Shows another network what it reads in bf16.
class Rounded : public SideNetwork {
 public:
  explicit Rounded(std::shared_ptr<SideNetwork> network)
      : network_(std::move(network)) {}

  bool stills_stream() const override { return network_->stills_stream(); }
  bool reads(Stack stack, int layer) const override {
    return network_->reads(stack, layer);
  }
  Output run(Stack stack, StackStates states, const at::Tensor& memory,
             const ForwardContext& ctx) override {
    const auto round = [](at::Tensor& t) {
      t = t.to(at::kBFloat16).to(at::kFloat);
    };
    round(states.embeddings);
    for (at::Tensor& t : states.outputs) round(t);
    return network_->run(stack, std::move(states), memory, ctx);
  }

 private:
  std::shared_ptr<SideNetwork> network_;
};

double distance(const at::Tensor& a, const at::Tensor& b) {
  return a.sub(b).norm().item<double>() / b.norm().item<double>();
}

class SideFeatures : public ::testing::TestWithParam<std::string> {};
INSTANTIATE_TEST_SUITE_P(Golden, SideFeatures,
                         ::testing::Values("t5_tied", "t5_gated", "bart_text"));

TEST_P(SideFeatures, AStepFromThemIsOneThatReadsInBf16) {
  Tuned t(GetParam());
  t.tiny.backbone->set_dropout(0.2);
  BackboneInput in = t.tiny.batch.input;
  const auto plain = t.step(in);
  auto network = t.tiny.backbone->side();
  t.tiny.backbone->swap_side(std::make_shared<Rounded>(network));
  const auto rounded = t.step(in);
  t.tiny.backbone->swap_side(network);

  const auto features = t.features();
  EXPECT_EQ(t.tiny.backbone->side(), network);
  t.give(features, in);
  // Whatever the layers would give now, nobody asks them.
  for (const Site& s : t.tiny.backbone->sites()) {
    if (s.kind != SiteKind::kLinear || s.role == Role::kHead) continue;
    t.tiny.backbone->parameters().writable(s.weight).fill_(
        std::numeric_limits<float>::quiet_NaN());
  }
  const auto given = t.step(in);
  EXPECT_EQ(given.loss, rounded.loss);
  EXPECT_TRUE(given.grads.equal(rounded.grads));
  // Eight bits of every number: 2^-9 at most. How far that moves a gradient is
  // the model's own.
  EXPECT_LT(std::abs(given.loss / plain.loss - 1), 1.0 / 256);
  EXPECT_GT(distance(given.grads, plain.grads), 0);
}

TEST_P(SideFeatures, OfASampleAloneAreThoseInABatch) {
  Tuned t(GetParam());
  const auto all = t.features();
  BackboneInput in = t.tiny.batch.input;
  std::vector<Features> each;
  for (std::int64_t b = 0; b < std::ssize(all); ++b) {
    each.push_back(t.features(t.tiny.example(b).input)[0]);
    const Features& want = all[static_cast<std::size_t>(b)];
    EXPECT_EQ(each.back().source, want.source);
    EXPECT_EQ(each.back().values.size(), want.values.size());
  }
  t.give(all, in);
  const auto batch = t.step(in);
  t.give(each, in);
  const auto apart = t.step(in);
  // Sums in another order may round a number to its neighbour.
  EXPECT_LT(std::abs(apart.loss / batch.loss - 1), 1.0 / 512);
  EXPECT_LT(distance(apart.grads, batch.grads), 1.0 / 64);
}

TEST(SideFeaturesOf, ALayerThatIsNotReadIsNotKept) {
  const SideTaps few = side_taps(
      *Tuned("t5_tied", {{"encoder_layers", {1}}, {"decoder_layers", {0}}})
           .tiny.backbone);
  EXPECT_EQ(few.text(),
            fmt::format("encoder 1, decoder 0, {} wide", few.width));
  Tuned t("t5_tied");
  const SideTaps taps = side_taps(*t.tiny.backbone);
  EXPECT_EQ(taps.text(),
            fmt::format("encoder 0 1, decoder 0 1, {} wide", taps.width));
  const auto rows = sample_rows(t.tiny.batch.input);
  const auto features = t.features();
  ASSERT_EQ(features.size(), rows.size());
  for (std::size_t b = 0; b < rows.size(); ++b) {
    EXPECT_EQ(std::ssize(features[b].values),
              3 * taps.width * (rows[b][0].count() + rows[b][1].count()));
  }
}

TEST(SideFeaturesOf, OtherTokensOrLayersAreRefused) {
  Tuned t("t5_tied");
  const auto features = t.features();
  BackboneInput in = t.tiny.batch.input;
  in.encoder.tokens = in.encoder.tokens.clone();
  auto* token = in.encoder.tokens.mutable_data_ptr<std::int64_t>();
  token[0] = token[0] == 5 ? 6 : 5;
  EXPECT_THROW(t.give(features, in), UsageError);
  // One of the target's alone.
  in = t.tiny.batch.input;
  in.decoder.tokens = in.decoder.tokens.clone();
  token = in.decoder.tokens.mutable_data_ptr<std::int64_t>() +
          in.decoder.layout.rows() - 1;
  *token = *token == 5 ? 6 : 5;
  EXPECT_THROW(t.give(features, in), UsageError);
  const Tuned fewer("t5_tied", {{"encoder_layers", {1}}});
  in = t.tiny.batch.input;
  try {
    fewer.give(features, in);
    FAIL();
  } catch (const UsageError& e) {
    EXPECT_NE(std::string(e.what()).find("sample 0: its features are"),
              std::string::npos)
        << e.what();
  }
}

std::string why(const Json& more, const std::string& beside = "",
                const Json& with = {}) {
  const Tuned t("t5_gated", more, beside, with);
  return why_no_features(*t.tiny.backbone);
}

TEST(SideFeaturesOf, WhatMovesInTheBackboneForbidsThem) {
  EXPECT_EQ(why(Json::object()), "");
  EXPECT_EQ(why({{"frozen_dropout", true}}),
            "the backbone drops out in training, so what its layers give "
            "differs from epoch to epoch");
  EXPECT_EQ(why(Json::object(), "lora", {{"target_modules", {"wi_1"}}}),
            "what is attached at "
            "'encoder.block.0.layer.1.DenseReluDense.wi_1' changes what the "
            "backbone's layers give");
  EXPECT_EQ(why(Json::object(), "prompt_tuning",
                {{"length", 2}, {"init", "uniform"}}),
            "what is attached at 'encoder.embed_tokens' changes what the "
            "backbone's layers give");
  EXPECT_EQ(why(Json::object(), "random_mask", {{"density", 0.01}}),
            "the trained 'shared.weight' changes what the backbone's layers "
            "give");
  Tiny bare("t5_gated");
  EXPECT_EQ(why_no_features(*bare.backbone),
            "no method runs a network beside the backbone, so nothing would "
            "read them");
}

// The output matrix is behind what is read, unless it is the embeddings' too.
TEST(SideFeaturesOf, AHeadMayTrain) {
  Tuned t("t5_gated");
  Parameters& p = t.tiny.backbone->parameters();
  const auto train = [&](const std::string& name) {
    const int slot = p.require(name);
    p.set_leaf(slot, p.slot(slot).frozen.clone().set_requires_grad(true));
  };
  train("lm_head.weight");
  EXPECT_EQ(why_no_features(*t.tiny.backbone), "");
  train("decoder.block.0.layer.1.EncDecAttention.k.weight");
  EXPECT_EQ(t.tiny.backbone->moved_by(),
            "the trained 'decoder.block.0.layer.1.EncDecAttention.k.weight'");
  Tuned tied("t5_tied");
  Parameters& q = tied.tiny.backbone->parameters();
  const int shared = q.require("shared.weight");
  q.set_leaf(shared, q.slot(shared).frozen.clone().set_requires_grad(true));
  EXPECT_EQ(tied.tiny.backbone->moved_by(), "the trained 'shared.weight'");
}

}  // namespace
}  // namespace thinwire
