// Counts of trainable numbers, from shapes alone, against the published ones.
#include <gtest/gtest.h>

#include <functional>
#include <map>

#include "base/error.h"
#include "peft/testing.h"

namespace thinwire {
namespace {

using testing::count_bart;
using testing::count_bert;
using testing::count_gpt2;
using testing::count_roberta;
using testing::count_t5;
using Json = nlohmann::ordered_json;

std::int64_t count(const Backbone& backbone, const char* method, Json config) {
  return testing::declare(*make_method(method, config), backbone).trainable();
}

Json mask(double density) { return {{"density", density}}; }

struct Bert {
  const char* name;
  std::int64_t layers, d, vocab, labels;
  std::int64_t all, at_0008, at_005;  // of all numbers, head included
};

// What methods' golden folders say (contract.json).
TEST(Counts, Published) {
  const std::map<std::string, std::function<std::unique_ptr<Backbone>()>>
      shapes = {
          {"bart-base", [] { return count_bart(6, 768); }},
          {"bart-large", [] { return count_bart(12, 1024); }},
          {"bert-base", [] { return count_bert(12, 768, 30522, 2); }},
          {"bert-large", [] { return count_bert(24, 1024, 30522, 2); }},
          {"roberta-base", [] { return count_roberta(12, 768, 2); }},
          {"roberta-large", [] { return count_roberta(24, 1024, 2); }},
          {"t5-base", [] { return count_t5(12, 768, 12, 64, 3072); }},
          {"t5-large", [] { return count_t5(24, 1024, 16, 64, 4096); }},
          {"t5-3b", [] { return count_t5(24, 1024, 32, 128, 16384); }},
      };
  int seen = 0;
  for (const MethodInfo& info : methods()) {
    for (const auto& c : testing::contract_of(info.id).counts) {
      const auto shape = shapes.find(c.shape);
      ASSERT_NE(shape, shapes.end()) << c.shape;
      const auto method = make_method(info.id, c.config);
      EXPECT_EQ(testing::declare(*method, *shape->second()).trainable(),
                c.trainable)
          << info.id << " on " << c.shape;
      ++seen;
    }
  }
  EXPECT_GT(seen, 0);
}

TEST(Counts, FishMaskOnBert) {
  const Bert cases[] = {
      {"base-cased", 12, 768, 28996, 2, 108311810, 86649, 541559},
      {"base-uncased", 12, 768, 30522, 2, 109483778, 87587, 547418},
      {"large-cased", 24, 1024, 28996, 2, 333581314, 266865, 1667906},
      {"large-cased, 3 labels", 24, 1024, 28996, 3, 333582339, 266865, 1667911},
      {"large-uncased", 24, 1024, 30522, 2, 335143938, 268115, 1675719},
  };
  for (const Bert& c : cases) {
    const auto bert = count_bert(c.layers, c.d, c.vocab, c.labels);
    EXPECT_EQ(bert->parameters().count(), c.all) << c.name;
    EXPECT_EQ(count(*bert, "fish_mask", mask(0.0008)), c.at_0008) << c.name;
    const Delta d =
        testing::declare(*make_method("fish_mask", mask(0.005)), *bert);
    EXPECT_EQ(d.trainable(), c.at_005) << c.name;
    std::int64_t head = 0;
    for (const DeltaEntry& e : d.entries()) head += e.head ? e.count : 0;
    EXPECT_EQ(head, c.labels * (c.d + 1)) << c.name;
    Json outside = mask(0.005);
    outside["count_head_in_budget"] = false;
    EXPECT_EQ(count(*bert, "fish_mask", outside), c.at_005 + head) << c.name;
  }
}

TEST(Counts, FishMaskOnT5) {
  const auto t5 = count_t5(12, 768, 12, 64, 3072);
  EXPECT_EQ(t5->parameters().count(), 222903552);
  EXPECT_EQ(count(*t5, "fish_mask", mask(0.0008)), 178322);
  EXPECT_EQ(count(*t5, "fish_mask", mask(0.005)), 1114517);
}

// 7.96 % of multilingual BERT, as published; everything until then.
TEST(Counts, LtSftOnMultilingualBert) {
  const auto bert = count_bert(12, 768, 119547, 3);
  EXPECT_EQ(bert->parameters().count(false), 177853440);
  const auto method = make_method("lt_sft", {{"density", 0.079591334},
                                             {"count_head_in_budget", false},
                                             {"full_steps", 10},
                                             {"exclude", "LayerNorm"}});
  const std::int64_t head = 3 * 768 + 3, norms = 25 * 2 * 768;
  const auto at = [&](std::int64_t step) {
    return testing::declare(*method, *bert, {.step = step}).trainable();
  };
  EXPECT_EQ(at(0), 177853440 - norms + head);
  EXPECT_EQ(at(10), 14155776 + head);
}

TEST(Counts, BitFit) {
  const Json all = {{"train_head", false}};
  const auto base = count_bert(12, 768, 28996, 2);
  const auto large = count_bert(24, 1024, 28996, 2);
  EXPECT_EQ(count(*base, "bitfit", all), 102912);
  EXPECT_EQ(count(*large, "bitfit", all), 272384);
  EXPECT_EQ(count(*base, "bitfit", Json::object()), 102912 + 1538);
  EXPECT_EQ(
      count(*base, "bitfit", {{"train_head", false}, {"exclude_key", true}}),
      102912 - 12 * 768);
  const auto terms = [&](const Backbone& b, Json list) {
    return count(
        b, "bitfit",
        {{"terms", list}, {"train_head", false}, {"train_pooler", false}});
  };
  EXPECT_EQ(terms(*base, {"query", "intermediate"}), 46080);
  EXPECT_EQ(terms(*base, {"intermediate"}), 36864);
  EXPECT_EQ(terms(*base, {"query"}), 9216);
  EXPECT_EQ(terms(*large, {"query", "intermediate"}), 122880);
  EXPECT_EQ(terms(*base, {"output"}), 2 * 12 * 768);  // the attention's too
  EXPECT_EQ(
      count(*base, "bitfit", {{"terms", {"query"}}, {"train_head", false}}),
      9216 + 768);  // the pooler's goes with every selection
}

TEST(Counts, Lora) {
  const Json all_three = {{"r", 8}};
  EXPECT_EQ(count(*count_t5(12, 768, 12, 64, 3072), "lora", all_three), 884736);
  EXPECT_EQ(count(*count_t5(24, 1024, 16, 64, 4096), "lora", all_three),
            2359296);
  EXPECT_EQ(count(*count_t5(24, 1024, 32, 128, 16384), "lora", all_three),
            5898240);
  EXPECT_EQ(count(*count_bert(12, 768, 30522, 2), "lora", all_three), 296450);
  EXPECT_EQ(count(*count_bert(24, 1024, 30522, 2), "lora", all_three), 788482);
}

TEST(Counts, HoulsbyOnBert) {
  const auto base = count_bert(12, 768, 30522, 2);
  const auto large = count_bert(24, 1024, 30522, 2);
  const auto adapters = [](const Backbone& b, Json width, bool norms) {
    width["layer_norms"] = norms;
    width["train_head"] = false;
    return count(b, "houlsby", width);
  };
  EXPECT_EQ(adapters(*base, {{"bottleneck", 64}}, false), 2379264);
  EXPECT_EQ(adapters(*base, {{"bottleneck", 64}}, true), 2417664);
  EXPECT_EQ(count(*base, "houlsby", Json::object()), 2419202);
  EXPECT_EQ(adapters(*base, {{"reduction_factor", 16}}, false), 1789056);
  EXPECT_EQ(adapters(*base, {{"bottleneck", 48}}, true), 1827456);
  EXPECT_EQ(adapters(*large, {{"bottleneck", 64}}, false), 6343680);
  EXPECT_EQ(adapters(*large, {{"bottleneck", 64}}, true), 6444032);
  EXPECT_EQ(adapters(*large, {{"bottleneck", 8}}, false), 835968);
  EXPECT_EQ(adapters(*large, {{"bottleneck", 256}}, true), 25327616);
  EXPECT_EQ(count(*base, "pfeiffer", {{"train_head", false}}), 894528);
}

TEST(Counts, HoulsbyOnT5) {
  const auto base = count_t5(12, 768, 12, 64, 3072);
  EXPECT_EQ(count(*base, "houlsby", {{"bottleneck", 24}}), 1855104);
  EXPECT_EQ(count(*base, "houlsby",
                  {{"reduction_factor", 32}, {"layer_norms", false}}),
            1807488);
  EXPECT_EQ(count(*base, "houlsby", Json::object()), 4806144);
  EXPECT_EQ(count(*base, "pfeiffer", {{"bottleneck", 24}}), 903744);
  EXPECT_EQ(
      count(*base, "pfeiffer", {{"bottleneck", 24}, {"layer_norms", true}}),
      951360);
  EXPECT_EQ(count(*base, "houlsby",
                  {{"bottleneck", 24},
                   {"layer_norms", false},
                   {"cross_adapter", true}}),
            5 * 12 * (2 * 24 * 768 + 24 + 768));
  EXPECT_EQ(
      count(*count_t5(24, 1024, 32, 128, 16384), "houlsby", Json::object()),
      12812288);
}

// HF's counts of base and large have a pooler, which the head does without.
TEST(Counts, Roberta) {
  const auto base = count_roberta(12, 768, 2);
  const auto large = count_roberta(24, 1024, 2);
  const std::int64_t pooler = 768 * 769, large_pooler = 1024 * 1025;
  EXPECT_EQ(base->parameters().count(), 124645632 - pooler + 592130);
  EXPECT_EQ(large->parameters().count(), 355359744 - large_pooler + 1051650);
  EXPECT_EQ(count(*base, "lora", {{"r", 8}}), 887042);
  EXPECT_EQ(count(*large, "lora", {{"r", 8}}), 1838082);
  EXPECT_EQ(count(*base, "head", Json::object()), 592130);
  EXPECT_EQ(count(*base, "ia3", {{"train_head", false}}), 55296);
}

// HF's counts; the head of two classes is 2 d.
TEST(Counts, Gpt2) {
  const auto small = count_gpt2(12, 768), medium = count_gpt2(24, 1024);
  EXPECT_EQ(small->parameters().count(), 124439808);
  EXPECT_EQ(medium->parameters().count(), 354823168);
  EXPECT_EQ(count_gpt2(36, 1280)->parameters().count(), 774030080);
  EXPECT_EQ(count_gpt2(12, 768, 2)->parameters().count(), 124439808 + 1536);
  EXPECT_EQ(count(*small, "lora", {{"r", 4}}), 147456);
  EXPECT_EQ(count(*medium, "lora", {{"r", 4}}), 393216);
  EXPECT_EQ(count(*small, "ia3", Json::object()), 55296);
  // HF peft's defaults scale queries too.
  EXPECT_EQ(count(*small, "ia3",
                  {{"target_modules", {"c_attn", "mlp.c_proj"}},
                   {"feedforward_modules", {"mlp.c_proj"}}}),
            64512);
  const auto prefix = [&](std::int64_t length, bool reparametrise) {
    return count(*medium, "prefix_tuning",
                 {{"length", length}, {"reparametrise", reparametrise}});
  };
  EXPECT_EQ(prefix(5, false), 245760);
  EXPECT_EQ(prefix(10, false), 491520);
  EXPECT_EQ(prefix(20, false), 983040);
  EXPECT_EQ(prefix(5, true), 25744896);
  EXPECT_EQ(prefix(10, true), 25750016);
  EXPECT_EQ(
      count(*small, "prompt_tuning", {{"length", 100}, {"init", "uniform"}}),
      76800);
  // As on BERT: two bottlenecks a layer; 25 layer norms.
  EXPECT_EQ(count(*small, "houlsby", {{"layer_norms", false}}), 2379264);
  EXPECT_EQ(count(*small, "houlsby", Json::object()), 2379264 + 25 * 2 * 768);
  EXPECT_EQ(count(*small, "pfeiffer", Json::object()), 894528);
}

TEST(Counts, Bart) {
  const auto base = count_bart(6, 768), large = count_bart(12, 1024);
  EXPECT_EQ(base->parameters().count(), 139420416);
  EXPECT_EQ(large->parameters().count(), 406291456);
  EXPECT_EQ(count(*base, "lora", {{"r", 8}}), 442368);
  EXPECT_EQ(count(*large, "lora", {{"r", 8}}), 1179648);
  EXPECT_EQ(
      count(*large, "lora", {{"r", 102}, {"target_modules", {"fc1", "fc2"}}}),
      25067520);
  EXPECT_EQ(count(*large, "ia3", Json::object()), 172032);
  // HF peft's defaults: queries in place of keys.
  EXPECT_EQ(count(*large, "ia3",
                  {{"target_modules", {"q_proj", "v_proj", "fc2"}},
                   {"feedforward_modules", {"fc2"}}}),
            172032);
  EXPECT_EQ(count(*large, "parallel_adapter", {{"bottleneck", 512}}), 25202688);
  EXPECT_EQ(count(*large, "parallel_adapter", {{"bottleneck", 1024}}),
            50380800);
  EXPECT_EQ(count(*large, "pfeiffer", {{"bottleneck", 600}}), 29530176);
  const auto stored = [&](std::int64_t length) {
    return count(*large, "prefix_tuning",
                 {{"length", length}, {"reparametrise", false}});
  };
  EXPECT_EQ(stored(200), 14745600);
  EXPECT_EQ(stored(30), 2211840);
  // Layer norms: one behind either embedding, two and three a layer.
  const std::int64_t adapter = 2 * 64 * 768 + 64 + 768;
  EXPECT_EQ(count(*base, "houlsby", Json::object()),
            4 * 6 * adapter + (2 + 5 * 6) * 2 * 768);
  EXPECT_EQ(count(*base, "houlsby",
                  {{"cross_adapter", true}, {"layer_norms", false}}),
            5 * 6 * adapter);
  // Biases: 4 of each attention's, fc1's and fc2's, the norms'.
  EXPECT_EQ(count(*base, "bitfit", Json::object()),
            6 * 768 * (3 * 4 + 2 * (4 + 1)) + (2 + 5 * 6) * 768);
  EXPECT_EQ(count(*base, "bitfit", {{"terms", {"query", "intermediate"}}}),
            6 * 768 * (3 + 2 * 4));
  EXPECT_EQ(count(*base, "bitfit", {{"terms", {"output_layernorm"}}}),
            5 * 6 * 768);
  EXPECT_EQ(count(*base, "bitfit", {{"terms", {"attention_layernorm"}}}),
            3 * 6 * 768);
  EXPECT_EQ(count(*base, "full", Json::object()), 139420416);
  EXPECT_EQ(count(*base, "fish_mask", mask(0.005)), 697102);
}

TEST(Counts, AdapterDrop) {
  const auto base = count_t5(12, 768, 12, 64, 3072);
  EXPECT_EQ(count(*base, "houlsby", {{"bottleneck", 24}, {"drop_first", 5}}),
            1101984);
  EXPECT_EQ(
      count(*base, "houlsby",
            {{"bottleneck", 24}, {"drop_first", 5}, {"layer_norms", false}}),
      1054368);
}

TEST(Counts, HypercomplexAdapters) {
  const auto base = count_t5(12, 768, 12, 64, 3072);
  const auto largest = count_t5(24, 1024, 32, 128, 16384);
  const Json plus_plus = {{"self_attention", false}};
  EXPECT_EQ(count(*base, "compacter", Json::object()), 161728);
  EXPECT_EQ(count(*base, "compacter", plus_plus), 104704);
  EXPECT_EQ(count(*largest, "compacter", Json::object()), 429120);
  EXPECT_EQ(count(*largest, "compacter", plus_plus), 277056);
  EXPECT_EQ(count(*base, "compacter", {{"layer_norms", false}}), 114112);
  EXPECT_EQ(count(*base, "phm_adapter", {{"phm_dim", 12}}), 398976);
  EXPECT_EQ(count(*largest, "phm_adapter", {{"phm_dim", 8}}), 1111040);
}

TEST(Counts, ParallelAdapters) {
  const auto base = count_t5(12, 768, 12, 64, 3072);
  EXPECT_EQ(count(*base, "parallel_adapter", {{"bottleneck", 512}}), 18905088);
}

TEST(Counts, PrefixTuning) {
  const auto base = count_t5(12, 768, 12, 64, 3072);
  const auto largest = count_t5(24, 1024, 32, 128, 16384);
  const auto stored = [](const Backbone& b, Json config) {
    config["reparametrise"] = false;
    config["train_head"] = false;
    return count(b, "prefix_tuning", config);
  };
  EXPECT_EQ(stored(*base, {{"length", 20}}), 1105920);
  EXPECT_EQ(stored(*base, {{"length", 200}}), 11059200);
  EXPECT_EQ(
      stored(*base, {{"length", 20}, {"encoder", false}, {"cross", false}}),
      368640);
  EXPECT_EQ(stored(*largest, {{"length", 20}}), 11796480);
  EXPECT_EQ(stored(*count_bert(12, 768, 30522, 2), {{"length", 20}}), 368640);
  EXPECT_EQ(count(*base, "prefix_tuning", {{"length", 20}}), 29594112);
  EXPECT_EQ(count(*base, "prefix_tuning",
                  {{"length", 20}, {"encoder", false}, {"cross", false}}),
            9864704);
}

TEST(Counts, PromptTuning) {
  const Json hundred = {{"length", 100}, {"init", "uniform"}};
  EXPECT_EQ(count(*count_t5(12, 768, 12, 64, 3072), "prompt_tuning", hundred),
            76800);
  EXPECT_EQ(
      count(*count_t5(24, 1024, 32, 128, 16384), "prompt_tuning", hundred),
      102400);
}

TEST(Counts, Ia3) {
  EXPECT_EQ(count(*count_t5(12, 768, 12, 64, 3072), "ia3", Json::object()),
            129024);
  EXPECT_EQ(count(*count_t5(24, 1024, 16, 64, 4096), "ia3", Json::object()),
            344064);
  EXPECT_EQ(count(*count_t5(24, 1024, 32, 128, 16384), "ia3", Json::object()),
            1376256);
  const auto bert = count_bert(12, 768, 30522, 2);
  EXPECT_EQ(count(*bert, "ia3", {{"train_head", false}}), 55296);
  // HF peft's defaults.
  EXPECT_EQ(count(*bert, "ia3",
                  {{"target_modules", {"key", "value", "output.dense"}},
                   {"feedforward_modules", {"output.dense"}},
                   {"train_head", false}}),
            64512);
}

TEST(Counts, WhatDoesNotFitIsRefusedWithNumbers) {
  const auto refusal = [](const Backbone& b, const char* method, Json config) {
    try {
      count(b, method, config);
    } catch (const UsageError& e) {
      return std::string(e.what());
    }
    return std::string();
  };
  const auto base = count_bert(12, 768, 30522, 2);
  EXPECT_EQ(refusal(*base, "fish_mask", mask(0.00001)),
            "fish_mask: density 1e-05 of 109483778 numbers is 1094, and the "
            "head alone has 1538; raise density or set count_head_in_budget: "
            "false");
  EXPECT_NE(refusal(*base, "fish_mask", mask(0)).find("(0, 1], got 0"),
            std::string::npos);
  EXPECT_NE(refusal(*base, "fish_mask", {{"exclude", "poller"}})
                .find("matches no tensor"),
            std::string::npos);
  EXPECT_NE(
      refusal(
          *base, "fish_mask",
          {{"density", 0.5}, {"exclude", "embeddings"}, {"fisher", "exact"}})
          .find("got 'exact'"),
      std::string::npos);
  EXPECT_NE(
      refusal(*base, "fish_mask", {{"density", 1.0}, {"exclude", "pooler"}})
          .find("asks for 109482240 numbers, 108891648 are"),
      std::string::npos);
  EXPECT_NE(refusal(*base, "lora", {{"target_modules", {"q"}}})
                .find("no linear module is named 'q'; this bert has: "),
            std::string::npos);
  EXPECT_NE(refusal(*base, "lora", {{"target_modules", "(broken"}})
                .find("no regular expression"),
            std::string::npos);
  EXPECT_NE(
      refusal(*base, "houlsby", {{"bottleneck", 8}, {"reduction_factor", 2}})
          .find("either"),
      std::string::npos);
  EXPECT_NE(refusal(*base, "pfeiffer", {{"non_linearity", "geluu"}})
                .find("choose one of: gelu, "),
            std::string::npos);
  EXPECT_EQ(refusal(*base, "compacter", {{"bottleneck", 30}}),
            "compacter: phm_dim 4 does not divide 30, a width of "
            "bert.encoder.layer.0.attention.output.adapters.thinwire."
            "adapter_down.0; choose a bottleneck that it divides");
  EXPECT_EQ(refusal(*base, "prompt_tuning", {{"length", 512}}),
            "prompt_tuning: a prompt of 512 leaves no room for text: this bert "
            "takes 512 tokens");
  EXPECT_NE(
      refusal(*base, "ia3",
              {{"target_modules", {"key"}}, {"feedforward_modules", {"value"}}})
          .find("value is of feedforward_modules but not of"),
      std::string::npos);
  EXPECT_NE(refusal(*base, "prefix_tuning", {{"encoder", false}})
                .find("leave no attention"),
            std::string::npos);
  EXPECT_NE(refusal(*base, "houlsby", {{"drop_first", 12}})
                .find("drop_first 12 leaves no layer"),
            std::string::npos);
  EXPECT_EQ(refusal(*base, "mam", {{"prefix_bottleneck", 0}}),
            "mam: prefix_bottleneck must be at least 1, got 0");
  EXPECT_EQ(refusal(*base, "intrinsic_dimension", {{"dimension", 0}}),
            "intrinsic_dimension: dimension must be in [1, 1048576], got 0");
  const auto t5 = count_t5(2, 64, 4, 16, 128);
  EXPECT_EQ(
      refusal(
          *t5, "intrinsic_dimension",
          {{"dimension", 10000}, {"target_modules", {"EncDecAttention.q"}}}),
      "intrinsic_dimension: dimension 10000 is more than the 8192 weights "
      "of its targets; train these themselves (full), or lower it");
  EXPECT_NE(refusal(*t5, "bitfit", Json::object()).find("add_missing"),
            std::string::npos);
  EXPECT_NE(refusal(*t5, "head", Json::object()).find("no head"),
            std::string::npos);
}

TEST(Counts, TargetModulesFollowPeft) {
  const auto bert = count_bert(2, 128, 100, 3);
  const auto sites = [&](std::vector<std::string> targets) {
    return match_linear_sites(*bert, targets, "lora").size();
  };
  EXPECT_EQ(sites({"query", "value"}), 4u);
  EXPECT_EQ(sites({"self.query"}), 2u);
  EXPECT_EQ(sites({"dense"}), 2u * 3 + 1);
  EXPECT_EQ(sites({"all-linear"}), 2u * 6 + 1);  // no head
  EXPECT_EQ(sites({".*layer\\.1\\..*\\.(query|key)"}), 2u);
  EXPECT_EQ(sites({"bert.encoder.layer.0.intermediate.dense"}), 1u);
  EXPECT_THROW(sites({"uery"}), UsageError);          // not on a dot
  EXPECT_THROW(sites({"layer.*query"}), UsageError);  // the whole name
}

}  // namespace
}  // namespace thinwire
