// Structures of modules: which there can be, how many numbers they have, and
// what is said where they do not fit.
#include "peft/structure.h"

#include <gtest/gtest.h>

#include <map>
#include <set>

#include "base/error.h"
#include "peft/testing.h"

namespace thinwire {
namespace {

using testing::count_bert;
using testing::count_t5;
using testing::Tiny;
using Json = nlohmann::ordered_json;

std::unique_ptr<Backbone> t5_large() {
  return count_t5(24, 1024, 16, 64, 4096);
}

std::unique_ptr<Method> structure(const Json& config) {
  return make_method("sparse_structure", config);
}

std::vector<DeltaModule> modules_of(const Json& config,
                                    const Backbone& backbone) {
  const auto method = structure(config);
  return dynamic_cast<const StructureMethod&>(*method).modules(backbone);
}

std::string refusal(const Json& config, const Backbone& backbone) {
  try {
    testing::declare(*structure(config), backbone);
  } catch (const UsageError& e) {
    return e.what();
  }
  return "";
}

// Of the paper's space on T5-large: 4 x 48 + 2 x 48 projections, these and 122
// norms, the norms, 2 x 48 sublayers.
TEST(Structure, TheSearchSpaceOfT5Large) {
  const auto t5 = t5_large();
  const auto method = structure(Json::object());
  const auto& s = dynamic_cast<const StructureMethod&>(*method);
  std::map<ModuleKind, int> sites;
  std::map<ModuleKind, std::set<std::int64_t>> sizes;
  std::int64_t sum = 0;
  for (const DeltaModule& m : s.modules(*t5)) {
    const std::int64_t n = s.factory().count(*t5, m);
    ++sites[m.kind];
    sizes[m.kind].insert(n);
    sum += n;
  }
  EXPECT_EQ(sites[ModuleKind::kLora], 288);
  EXPECT_EQ(sites[ModuleKind::kBias], 410);
  EXPECT_EQ(sites[ModuleKind::kGain], 122);
  EXPECT_EQ(sites[ModuleKind::kAdapter], 96);
  using Sizes = std::set<std::int64_t>;
  EXPECT_EQ(sizes[ModuleKind::kLora], (Sizes{2048, 5120}));
  EXPECT_EQ(sizes[ModuleKind::kBias], (Sizes{1024, 4096}));
  EXPECT_EQ(sizes[ModuleKind::kGain], (Sizes{1024}));
  EXPECT_EQ(sizes[ModuleKind::kAdapter], (Sizes{3168}));
  EXPECT_EQ(testing::declare(*method, *t5).trainable(), sum);
}

// The paper's other space, low-rank paths alone.
TEST(Structure, AListNamesItsKindAlone) {
  const auto t5 = t5_large();
  const Json lora = {{"lora", R"(.*(SelfAttention|DenseReluDense)\..*)"}};
  EXPECT_EQ(modules_of(lora, *t5).size(), 288u);
  const Json query = {{"lora", "0.layer.0.SelfAttention.q"}};
  EXPECT_EQ(modules_of(query, *t5).size(), 2u);  // one a stack
}

TEST(Structure, BertHasBiasesOfItsOwn) {
  const auto bert = count_bert(12, 768, 30522, 2);
  const Json biases = {{"bias", R"(.*(query|LayerNorm))"},
                       {"train_head", false}};
  const Delta delta = testing::declare(*structure(biases), *bert);
  EXPECT_EQ(delta.trainable(), (12 + 25) * 768);
  for (const DeltaEntry& e : delta.entries()) EXPECT_EQ(e.target, e.name);
}

TEST(Structure, OnlyModulesThatAreNamedTrain) {
  Tiny tiny("t5_gated");
  const auto method =
      structure({{"lora", "encoder.block.1.layer.0.SelfAttention.q"},
                 {"bias", "decoder.final_layer_norm"}});
  Delta delta = testing::declare(*method, *tiny.backbone);
  std::vector<std::string> names;
  for (const DeltaEntry& e : delta.entries()) names.push_back(e.name);
  const std::string q =
      "base_model.model.encoder.block.1.layer.0.SelfAttention.q.lora_";
  EXPECT_EQ(names,
            (std::vector<std::string>{q + "A.weight", q + "B.weight",
                                      "decoder.final_layer_norm.added_bias"}));
}

TEST(Structure, AnotherModelIsRefused) {
  const auto t5 = t5_large();
  const auto bert = count_bert(12, 768, 30522, 2);
  EXPECT_EQ(shape_of(*t5), "t5, 24 + 24 layers of width 1024");
  EXPECT_EQ(shape_of(*bert), "bert, 12 layers of width 768");
  const Json found = {{"lora", "encoder.block.21.layer.0.SelfAttention.q"},
                      {"found_on", "t5, 24 + 24 layers of width 1024"}};
  EXPECT_EQ(refusal(found, *t5), "");
  EXPECT_EQ(refusal(found, *bert),
            "sparse_structure: it was found on t5, 24 + 24 layers of width "
            "1024, this "
            "model is bert, 12 layers of width 768; search anew, or leave out "
            "found_on");
  Json unsaid = found;
  unsaid.erase("found_on");
  EXPECT_TRUE(
      refusal(unsaid, *bert)
          .starts_with(
              "sparse_structure: lora: no linear module is named "
              "'encoder.block.21.layer.0.SelfAttention.q'; this bert has: "));
  EXPECT_TRUE(
      refusal({{"gain", "query"}}, *bert)
          .starts_with("sparse_structure: gain: no norm is named 'query'; "
                       "this bert has: LayerNorm"));
  EXPECT_TRUE(
      refusal({{"adapter", Json::array()}}, *bert)
          .starts_with("sparse_structure: adapter is empty; this bert has: "));
}

TEST(Structure, SizesOutOfRangeAreRefused) {
  const auto message = [](const Json& config) {
    try {
      structure(config);
    } catch (const UsageError& e) {
      return std::string(e.what());
    }
    return std::string();
  };
  EXPECT_EQ(message({{"r", 0}}),
            "sparse_structure: r must be in [1, 65536], got 0");
  EXPECT_EQ(message({{"alpha", 0}}),
            "sparse_structure: alpha must be positive, got 0");
  EXPECT_EQ(message({{"adapter_rank", 0}}),
            "sparse_structure: adapter_rank must be in [1, 65536], got 0");
  EXPECT_TRUE(
      message({{"non_linearity", "gleu"}})
          .starts_with("sparse_structure: non_linearity 'gleu' is unknown; "
                       "choose one of: gelu"));
  Tiny tiny("bert_classify");
  EXPECT_EQ(
      refusal({{"adapter", "0.output"}}, *tiny.backbone),
      "sparse_structure: reduction_factor 32 leaves nothing of width 24; lower "
      "it");
}

// A bias of T5 has no tensor to be merged into.
TEST(Structure, WhatHasNoTensorIsNotMerged) {
  Tiny tiny("t5_tied");
  const auto method = structure({{"bias", "decoder.final_layer_norm"}});
  Delta delta = testing::declare(*method, *tiny.backbone);
  tiny.adopt(*method, delta);
  std::vector<std::pair<int, at::Tensor>> slots;
  try {
    method->merge(*tiny.backbone, delta, slots);
    FAIL();
  } catch (const UsageError& e) {
    EXPECT_STREQ(
        e.what(),
        "sparse_structure: the bias at decoder.final_layer_norm cannot be "
        "merged: this t5 has no tensor for it");
  }
}

// Of layers 0, 5 and 11, the module of layer 5 is at layer 1.
TEST(Structure, OnSomeLayersItHasTheirModules) {
  const auto whole = structure(
      {{"lora",
        {"encoder.layer.5.attention.self.query",
         "encoder.layer.7.attention.self.query"}},
       {"gain", {"embeddings.LayerNorm", "encoder.layer.11.output.LayerNorm"}},
       {"found_on", "bert, 12 layers of width 768"}});
  const auto cut = whole->on_layers(std::vector<int>{0, 5, 11}, {});
  const auto bert = count_bert(3, 768, 30522, 2);
  const Delta delta = testing::declare(*cut, *bert);
  std::vector<std::string> names;
  for (const DeltaEntry& e : delta.entries()) {
    if (!e.head) names.push_back(e.name);
  }
  const std::string query =
      "base_model.model.bert.encoder.layer.1.attention.self.query.lora_";
  EXPECT_EQ(names, (std::vector<std::string>{
                       query + "A.weight", query + "B.weight",
                       "bert.embeddings.LayerNorm.weight",
                       "bert.encoder.layer.2.output.LayerNorm.weight"}));
}

}  // namespace
}  // namespace thinwire
