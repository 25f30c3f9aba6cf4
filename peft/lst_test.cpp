// Ladder side-tuning, beyond what holds for every method: where the side's
// layers begin, what is kept of the backbone, its dropout, decoding step by
// step, and what is refused.
#include <ATen/core/grad_mode.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/tensor.h>
#include <c10/core/StorageImpl.h>
#include <gtest/gtest.h>

#include <map>

#include "base/error.h"
#include "models/kv_cache.h"
#include "peft/testing.h"

namespace thinwire {
namespace {

using testing::Tiny;
using testing::TinyScoring;
using Json = nlohmann::ordered_json;

struct Tuned {
  explicit Tuned(const std::string& model, const Json& config)
      : tiny(model), method(make_method("lst", config)) {
    TinyScoring scoring(tiny);
    delta = testing::declare(*method, *tiny.backbone, {.scoring = &scoring});
    tiny.adopt(*method, delta);
  }

  Tiny tiny;
  std::unique_ptr<Method> method;
  Delta delta;
};

const Json kSmall{
    {"reduction_factor", 2}, {"encoder_layers", {1}}, {"init", "magnitude"}};

// By a walk along HF's tensors that the golden data's maker wrote down.
class LstStart : public ::testing::TestWithParam<std::string> {};
INSTANTIATE_TEST_SUITE_P(Golden, LstStart,
                         ::testing::Values("lst_t5", "lst_t5_gated",
                                           "lst_bart"));

TEST_P(LstStart, SideLayersBeginAsPartsOfTheBackbone) {
  const std::string folder = golden_path(GetParam());
  const Json about = testing::read_json(folder + "/adapter.json");
  const SafetensorsFile golden(folder + "/golden.safetensors");
  for (const std::string init : {"magnitude", "fisher"}) {
    Json config = about.at("config");
    config["init"] = init;
    const Tuned tuned(about.at("model").get<std::string>(), config);
    const std::string prefix = "pruned." + init + ".";
    int seen = 0;
    for (const std::string& name : golden.names()) {
      if (!name.starts_with(prefix)) continue;
      EXPECT_TRUE(tuned.delta.leaf(name.substr(prefix.size()))
                      .detach()
                      .equal(golden.tensor(name)))
          << name;
      ++seen;
    }
    EXPECT_GT(seen, 15);
  }
}

TEST(Lst, AtRandomItBeginsAsTheArchitectureDoes) {
  const Tuned a("t5_tied", {{"reduction_factor", 2}, {"init", "random"}});
  const at::Tensor norm = a.delta.leaf("encoder.final_side_layer_norm.weight");
  EXPECT_TRUE(norm.detach().eq(1).all().item<bool>());
  const at::Tensor q =
      a.delta.leaf("decoder.side_block.1.layer.0.SelfAttention.q.weight");
  EXPECT_GT(q.detach().std().item<double>(), 0.01);
}

// Where a stack's layers put what they give.
class Watch : public TapAttachment {
 public:
  at::Tensor layer_output(const at::Tensor& hidden,
                          const ForwardContext& ctx) override {
    graph = graph || hidden.requires_grad();
    training = training || ctx.training;
    storage = c10::weak_intrusive_ptr<c10::StorageImpl>(
        hidden.storage().getWeakStorageImpl());
    return hidden;
  }
  bool graph = false, training = false;
  c10::weak_intrusive_ptr<c10::StorageImpl> storage{
      c10::intrusive_ptr<c10::StorageImpl>()};
};

std::map<std::string, std::shared_ptr<Watch>> watch(Backbone& backbone) {
  std::map<std::string, std::shared_ptr<Watch>> out;
  for (std::size_t i = 0; i < backbone.sites().size(); ++i) {
    const Site& site = backbone.sites()[i];
    if (site.kind != SiteKind::kTap || site.name.ends_with("norm")) continue;
    out[site.name] = std::make_shared<Watch>();
    backbone.attach(static_cast<int>(i), out[site.name]);
  }
  return out;
}

TEST(Lst, OfTheBackboneOnlyWhatIsReadIsKept) {
  Tuned t("t5_tied", {{"reduction_factor", 2},
                      {"encoder_layers", {0, 2}},
                      {"decoder_layers", {1}},
                      {"init", "magnitude"}});
  const auto seen = watch(*t.tiny.backbone);
  ForwardContext ctx;
  ctx.training = true;
  const at::Tensor loss = t.tiny.loss(t.tiny.batch.input, ctx);
  for (const auto& [name, layer] : seen) {
    EXPECT_FALSE(layer->graph) << name;
    EXPECT_FALSE(layer->training) << name;
    const bool read = name != "encoder.block.1" && name != "decoder.block.0";
    EXPECT_EQ(layer->storage.expired(), !read) << name;
  }
  loss.backward();
  for (const DeltaEntry& e : t.delta.entries()) {
    const bool still = e.name == "encoder.side_gate_params.1" ||
                       e.name == "decoder.side_gate_params.0";
    EXPECT_EQ(t.delta.leaf(e.name).grad().norm().item<double>() == 0, still)
        << e.name;
  }
}

TEST(Lst, DropoutActsInTheBackboneWhereAsked) {
  const auto hidden = [](bool frozen_dropout, bool training) {
    Json config = kSmall;
    config["frozen_dropout"] = frozen_dropout;
    Tuned t("t5_tied", config);
    t.tiny.backbone->set_dropout(0.3);
    const auto seen = watch(*t.tiny.backbone);
    ForwardContext ctx;
    ctx.training = training;
    const at::Tensor logits = t.tiny.logits(t.tiny.batch.input, ctx).detach();
    EXPECT_EQ(seen.at("decoder.block.0")->training, frozen_dropout && training);
    return logits;
  };
  const at::Tensor still = hidden(false, true), moving = hidden(true, true);
  EXPECT_FALSE(still.equal(moving));
  EXPECT_TRUE(hidden(false, false).equal(hidden(true, false)));
  EXPECT_FALSE(still.equal(hidden(false, false)));  // the side's own dropout
}

// Gates far to one side: the ladders have no say, or nothing else has.
TEST(Lst, GatesAtTheirEnds) {
  const auto at = [](float gate, const char* part) {
    Tuned t("t5_gated", kSmall);
    for (const DeltaEntry& e : t.delta.entries()) {
      const at::Tensor leaf = t.delta.leaf(e.name).detach();
      if (e.name.find("gate_params") != std::string::npos) leaf.fill_(gate);
      if (e.name.find(part) != std::string::npos) leaf.add_(0.5);
    }
    return t.tiny.logits().detach();
  };
  EXPECT_TRUE(at(100, "side_downsamples").equal(at(100, "none")));
  EXPECT_FALSE(at(100, "side_first").equal(at(100, "none")));
  EXPECT_TRUE(at(-100, "side_first").equal(at(-100, "none")));
  EXPECT_FALSE(at(-100, "side_downsamples").equal(at(-100, "none")));
}

TEST(Lst, WithLoraInTheBackboneBothTrain) {
  Tiny tiny("t5_gated");
  const auto lora = make_method("lora", {{"target_modules", {"q", "v"}}});
  const auto lst = make_method("lst", kSmall);
  TinyScoring scoring(tiny);
  const DeclareContext context{.scoring = &scoring};
  DeltaBuilder builder;
  for (Method* m : {lora.get(), lst.get()}) {
    m->declare(builder, *tiny.backbone, context);
  }
  const Delta delta = builder.build();
  delta.bind(tiny.backbone->parameters());
  for (Method* m : {lora.get(), lst.get()}) m->attach(*tiny.backbone, delta);
  tiny.loss().backward();
  EXPECT_GT(delta
                .leaf("base_model.model.encoder.block.0.layer.0.SelfAttention."
                      "q.lora_B.weight")
                .grad()
                .norm()
                .item<double>(),
            0);
  EXPECT_GT(
      delta.leaf("side_final_upsample.weight").grad().norm().item<double>(), 0);
}

TokenStream stream_of(const std::vector<std::vector<std::int64_t>>& sequences) {
  std::vector<std::int64_t> lengths, all;
  std::vector<std::uint64_t> samples;
  for (const auto& s : sequences) {
    samples.push_back(lengths.size());
    lengths.push_back(static_cast<std::int64_t>(s.size()));
    all.insert(all.end(), s.begin(), s.end());
  }
  return {at::tensor(all, at::kLong), {}, make_layout(lengths, samples)};
}

// Two streams that change places after the first token, and go on.
TEST(Lst, DecodesStepByStepWhatItDecodesAtOnce) {
  const at::NoGradGuard no_grad;
  for (const char* model : {"t5_tied", "t5_gated", "bart_text"}) {
    Tuned t(model, kSmall);
    Backbone& backbone = *t.tiny.backbone;
    BackboneInput in;
    in.encoder = stream_of({{5, 6, 7, 1}});
    const BackboneOutput memory = backbone.encode(in, {});
    KvCache cache(1);
    ForwardContext ctx;
    ctx.cache = &cache;
    const auto step = [&](std::vector<std::vector<std::int64_t>> tokens) {
      BackboneInput next;
      next.decoder = stream_of(tokens);
      return backbone.decode(memory, next, ctx).hidden;
    };
    step({{0}});
    cache.select({0, 0});
    step({{4}, {9}});
    cache.select({1, 0});
    const at::Tensor last = step({{11}, {12}});
    const auto whole = [&](std::vector<std::int64_t> tokens) {
      BackboneInput all = in;
      all.decoder = stream_of({std::move(tokens)});
      return backbone.forward(all, {}).hidden.narrow(0, 2, 1);
    };
    EXPECT_TRUE(golden_close(model, last,
                             at::cat({whole({0, 9, 11}), whole({0, 4, 12})})));
  }
}

std::string refusal(const std::string& model, const Json& config) {
  try {
    const Tuned t(model, config);
  } catch (const UsageError& e) {
    return e.what();
  }
  return "";
}

TEST(Lst, RefusalsSayWhatWouldBeRight) {
  EXPECT_EQ(refusal("bert_classify", {{"reduction_factor", 2}}),
            "lst: runs beside an encoder and a decoder, this is bert; use a t5 "
            "or bart model");
  EXPECT_EQ(refusal("t5_tied", {{"reduction_factor", 0}}),
            "lst: reduction_factor must be at least 1, got 0");
  EXPECT_EQ(refusal("t5_tied", {{"reduction_factor", 8}}),
            "lst: reduction_factor 8 leaves nothing of a width of 7");
  EXPECT_EQ(refusal("bart_text", {{"reduction_factor", 3}}),
            "lst: reduction_factor 3 leaves a width of 5, which 2 heads do not "
            "divide");
  EXPECT_EQ(
      refusal("t5_tied", {{"reduction_factor", 2}, {"decoder_layers", {0, 2}}}),
      "lst: decoder_layers has 2, but this t5 has layers 0 to 1 there");
  EXPECT_EQ(
      refusal("t5_tied", {{"reduction_factor", 2}, {"encoder_layers", {1, 1}}}),
      "lst: encoder_layers must be without repetition, got [1,1]");
  EXPECT_EQ(refusal("t5_tied", {{"encoder_layers", Json::array()}}),
            "lst: encoder_layers must be at least one layer, got []");
  EXPECT_EQ(refusal("t5_tied", {{"gate_temperature", 0}}),
            "lst: gate_temperature must be above 0, got 0.0");
  EXPECT_EQ(refusal("t5_tied", {{"init", "zeros"}}),
            "lst: init must be fisher, magnitude or random, got \"zeros\"");
  EXPECT_EQ(refusal("t5_tied", {{"samples", 0}}),
            "lst: samples must be at least 1, got 0");
  EXPECT_EQ(refusal("t5_tied", {{"encoder_layers", {0.5}}}),
            "lst: encoder_layers must be a list of whole numbers, got [0.5]");
}

TEST(Lst, AnImportanceOfZerosIsNone) {
  Tiny tiny("t5_tied");
  const int slot = tiny.backbone->parameters().require(
      "encoder.block.1.layer.1.DenseReluDense.wo.weight");
  tiny.backbone->parameters().writable(slot).zero_();
  TinyScoring scoring(tiny);
  try {
    testing::declare(*make_method("lst", kSmall), *tiny.backbone,
                     {.scoring = &scoring});
    FAIL();
  } catch (const UsageError& e) {
    EXPECT_STREQ(e.what(),
                 "lst: the importance of "
                 "'encoder.block.1.layer.1.DenseReluDense.wo.weight' is zero "
                 "throughout, so nothing says what to keep of it; set init: "
                 "random");
  }
}

}  // namespace
}  // namespace thinwire
