#include "launch/estimate/estimate.h"

#include <ATen/ops/arange.h>
#include <ATen/ops/zeros.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <fstream>
#include <functional>
#include <map>
#include <regex>

#include "base/temp_folder.h"
#include "comm/communicator.h"
#include "dist/declare.h"
#include "dist/testing.h"
#include "launch/estimate/layer_names.h"
#include "ops/tensor_memory.h"

namespace thinwire {
namespace {

constexpr const char* kT5 = R"({"model_type": "t5",
  "architectures": ["T5ForConditionalGeneration"], "vocab_size": 200,
  "d_model": 32, "d_kv": 8, "num_heads": 4, "d_ff": 64, "num_layers": 7,
  "num_decoder_layers": 5, "feed_forward_proj": "relu",
  "tie_word_embeddings": true, "decoder_start_token_id": 0,
  "pad_token_id": 0, "eos_token_id": 1, "dropout_rate": 0.1})";
constexpr const char* kGpt2 = R"({"model_type": "gpt2",
  "architectures": ["GPT2LMHeadModel"], "vocab_size": 200, "n_embd": 32,
  "n_layer": 6, "n_head": 4, "n_inner": 64, "n_positions": 64})";
constexpr const char* kBert = R"({"model_type": "bert",
  "architectures": ["BertModel"], "vocab_size": 200, "hidden_size": 32,
  "num_hidden_layers": 6, "num_attention_heads": 4, "intermediate_size": 64,
  "max_position_embeddings": 64, "type_vocab_size": 2, "hidden_act": "gelu",
  "layer_norm_eps": 1e-12, "pad_token_id": 0, "initializer_range": 0.02})";

// The same with many layers, of which a whole step costs more than a few.
const std::string kDeepT5 = std::regex_replace(
    std::regex_replace(kT5, std::regex("\"num_layers\": 7"),
                       "\"num_layers\": 24"),
    std::regex("\"num_decoder_layers\": 5"), "\"num_decoder_layers\": 16");
const std::string kDeepBert = std::regex_replace(
    kBert, std::regex("\"num_hidden_layers\": 6"), "\"num_hidden_layers\": 14");

class Estimate : public testing::Test {
 protected:
  void SetUp() override { count_tensor_memory(); }

  OpenRun open(const std::string& model, const std::string& task,
               const std::string& peft) {
    const std::string base =
        testing::TempDir() + "/estimate_" + std::to_string(getpid());
    std::ofstream(base + ".json") << model;
    std::ofstream(base + ".yaml")
        << "model: {config: " << base << ".json}\ntask: " << task
        << "\ndata: {batch_size: 6, max_tokens: 40}\npeft:\n  - " << peft
        << "\ntrain: {steps: 1, threads: 1}\n";
    return open_run(load_run_config(base + ".yaml", {}), Need::kNothing,
                    Need::kNothing, *comm_);
  }
  static ForeseenDelta declare(OpenRun& run) {
    return foresee_delta(run, "", 0);
  }
  // Few layers foretell what a step of all of them takes.
  void expect_affine(OpenRun run) { expect_affine(run, declare(run)); }
  void expect_affine(const OpenRun& run, const ForeseenDelta& foreseen) {
    const auto batch = largest_batch(run);
    const StepEstimate e = estimate_step(run, foreseen, batch, 1e18);
    const LayerPlan all = all_layers(*run.backbone);
    const Probe whole =
        probe_step(run.config, *run.backbone, foreseen.delta, batch,
                   {all.encoder.base, all.decoder.base}, false);
    const double fact = whole.step.most() + whole.state_bytes;
    const auto foretold = static_cast<double>(
        e.memory.states + e.memory.activations + e.memory.transient);
    EXPECT_GT(fact, 1e5);
    EXPECT_NEAR(foretold / fact, 1, 0.02) << run.config.text;
  }

  std::unique_ptr<Communicator> comm_ = make_communicator("self");
};

TEST_F(Estimate, FewLayersForetellAll) {
  for (const char* peft :
       {"{method: lora, r: 4, target_modules: [q, v]}", "{method: full}",
        "{method: fish_mask, density: 0.02, samples: 4}",
        "{method: parallel_adapter, bottleneck: 8, drop_first: 2}",
        "{method: lst, reduction_factor: 2}"}) {
    expect_affine(open(kT5, "{kind: text_to_text}", peft));
  }
  for (const char* peft :
       {"{method: lora, r: 4}", "{method: full}", "{method: ia3}",
        "{method: fish_mask, density: 0.02, samples: 4}"}) {
    expect_affine(open(kGpt2, "{kind: lm}", peft));
  }
  for (const char* peft :
       {"{method: lora, r: 4, target_modules: [query, value]}",
        "{method: full}", "{method: pfeiffer}",
        "{method: compacter, bottleneck: 8}", "{method: ia3}",
        "{method: parallel_adapter, bottleneck: 8}",
        "{method: prefix_tuning, length: 5, bottleneck: 8}",
        "{method: prompt_tuning, length: 5}",
        "{method: houlsby, bottleneck: 8, drop_first: 3}"}) {
    expect_affine(open(kBert, "{kind: classify, labels: 2}", peft));
  }
}

// A network beside some layers of a stack, others without.
TEST_F(Estimate, LayersBesideWhichNothingRunsAreAKind) {
  OpenRun run = open(kDeepT5, "{kind: text_to_text}",
                     "{method: lst, reduction_factor: 2, encoder_layers: [5, "
                     "11, 17, 23], decoder_layers: [1, 3, 15]}");
  const ForeseenDelta foreseen = declare(run);
  const LayerPlan plan = plan_layers(*run.backbone, foreseen.delta);
  EXPECT_EQ(plan.encoder.base, (std::vector<int>{0, 23}));
  EXPECT_EQ(plan.encoder.more.size(), 2u);
  EXPECT_EQ(plan.decoder.more.size(), 2u);
  expect_affine(run, foreseen);
}

// What the backbone's layers give is read, and they do not run.
TEST_F(Estimate, AStepFromACache) {
  const char* peft = "{method: lst, reduction_factor: 2}";
  const auto estimate = [&](OpenRun& run) {
    return estimate_step(run, declare(run), largest_batch(run), 1e18);
  };
  for (const std::string& model : {std::string(kT5), kDeepT5}) {
    OpenRun run = open(model, "{kind: text_to_text}", peft);
    const StepEstimate plain = estimate(run);
    run.config.train.cache = "unused";
    expect_affine(run, declare(run));
    const StepEstimate cached = estimate(run);
    const ModelConfig& c = run.backbone->config();
    const std::int64_t source = 6 * 40, target = 6 * 32;
    EXPECT_EQ(plain.memory.features, 0);
    EXPECT_EQ(cached.memory.features,
              3 * 2 * c.d_model *
                  (source * (1 + c.layers) + target * (1 + c.decoder_layers)));
    // All that goes is the backbone's.
    const double inner = static_cast<double>(c.heads * c.d_kv);
    const auto d = static_cast<double>(c.d_model),
               ff = static_cast<double>(c.d_ff);
    const auto layer = [&](double tokens, double memory, double pairs) {
      return 2 * tokens * (4 * d * inner + 2 * d * ff) +
             (memory > 0 ? 4 * (tokens + memory) * d * inner : 0) +
             4 * pairs * inner;
    };
    const double encoder = layer(source, 0, 6 * 40 * 40);
    const double decoder = layer(target, source, 6 * (32 * 33 / 2.0 + 32 * 40));
    EXPECT_NEAR(plain.flops.forward - cached.flops.forward,
                static_cast<double>(c.layers) * encoder +
                    static_cast<double>(c.decoder_layers) * decoder,
                1e-6 * plain.flops.forward);
    EXPECT_EQ(plain.flops.backward, cached.flops.backward);
  }
}

// What stands in some layers alone.
TEST_F(Estimate, LayersWithoutAModuleAreAKind) {
  OpenRun run =
      open(kDeepT5, "{kind: text_to_text}",
           "{method: sparse_structure, reduction_factor: 4, "
           "lora: [encoder.block.9.layer.0.SelfAttention.q, "
           "encoder.block.15.layer.0.SelfAttention.q], "
           "adapter: [decoder.block.3.layer.2, decoder.block.9.layer.2], "
           "bias: [decoder.final_layer_norm]}");
  const ForeseenDelta foreseen = declare(run);
  const LayerPlan plan = plan_layers(*run.backbone, foreseen.delta);
  EXPECT_EQ(plan.encoder.base, (std::vector<int>{0, 9, 23}));
  // Before the first that trains, behind it without a module and with one.
  EXPECT_EQ(plan.encoder.more.size(), 3u);
  EXPECT_EQ(plan.decoder.base, (std::vector<int>{0, 3, 15}));
  EXPECT_EQ(plan.decoder.more.size(), 3u);
  expect_affine(run, foreseen);
}

// A mask of some layers' tensors: every tenth number of those that `chosen`
// picks by the layer's number and its name without it.
Delta mask_of(const Backbone& backbone,
              const std::function<bool(const LayerPlace&)>& chosen) {
  DeltaBuilder builder;
  const LayerNames names(backbone);
  const Parameters& p = backbone.parameters();
  for (int i = 0; i < p.size(); ++i) {
    const auto place = names.find(p.slot(i).name);
    if (!place || !chosen(*place)) continue;
    DeltaEntry e;
    e.name = e.target = p.slot(i).name;
    e.kind = EntryKind::kMasked;
    e.shape = p.slot(i).frozen.sizes().vec();
    e.index = at::arange(0, p.slot(i).frozen.numel(), 10, at::kInt);
    const std::int64_t n = e.index.numel();
    builder.add(std::move(e), at::zeros({n}, at::kFloat));
  }
  return builder.build();
}

bool is(const LayerPlace& place, const char* tensor) {
  return place.after.find(tensor) != std::string_view::npos;
}

// Masks that leave most tensors alone, differently in different layers.
TEST_F(Estimate, LayersOfManyKindsForetellAll) {
  const char* fish = "{method: fish_mask, density: 0.02, samples: 4}";
  const auto expect_fewer = [&](const std::string& model,
                                const std::string& task, const auto& chosen,
                                std::size_t kinds) {
    OpenRun run = open(model, task, fish);
    ForeseenDelta foreseen{mask_of(*run.backbone, chosen), ""};
    const LayerPlan plan = plan_layers(*run.backbone, foreseen.delta);
    EXPECT_EQ(plan.encoder.more.size() + plan.decoder.more.size(), kinds);
    expect_affine(run, foreseen);
    // As an even spread over all numbers it would be far off.
    const auto batch = largest_batch(run);
    const auto bytes = [&](const ForeseenDelta& d) {
      const MemoryEstimate m = estimate_step(run, d, batch, 1e18).memory;
      return static_cast<double>(m.activations + m.transient);
    };
    EXPECT_GT(bytes(declare(run)) / bytes(foreseen), 1.1);
  };
  expect_fewer(
      kDeepT5, "{kind: text_to_text}",
      [](const LayerPlace& p) {
        if (p.decoder) return p.layer >= 4 && is(p, "EncDecAttention.v");
        return p.layer % 2 == 0 ? is(p, "SelfAttention.q") : is(p, ".wo.");
      },
      4);
  expect_fewer(
      kDeepBert, "{kind: classify, labels: 2}",
      [](const LayerPlace& p) {
        return p.layer >= 6 && is(p, p.layer % 3 == 0 ? "query" : "output");
      },
      3);
}

TEST_F(Estimate, RareKindsCountAsTheNearest) {
  OpenRun run =
      open(kDeepBert, "{kind: classify, labels: 2}", "{method: full}");
  const char* tensors[] = {"query.w", "key.w", "value.w", "output.dense.w"};
  // Layers 1 to 8 in pairs, 9 and 10 like the last of these but for a bias.
  const Delta delta = mask_of(*run.backbone, [&](const LayerPlace& p) {
    if (p.layer == 0 || p.layer > 10) return is(p, "query");
    if (p.layer > 8)
      return is(p, tensors[3]) || (p.layer == 9 && is(p, "key.b"));
    return is(p, tensors[(p.layer - 1) / 2]);
  });
  const StackPlan plan = plan_layers(*run.backbone, delta).encoder;
  EXPECT_EQ(plan.base, (std::vector<int>{0, 13}));
  std::map<int, std::int64_t> times;
  for (const auto& more : plan.more) times[more.layer] = more.times;
  // 11 and 12 are a kind of two.
  EXPECT_EQ(times,
            (std::map<int, std::int64_t>{{1, 4}, {3, 2}, {5, 2}, {7, 4}}));
}

TEST_F(Estimate, FewExamplesSayWhichTensorsAMaskLeavesAlone) {
  const char* fish = "{method: fish_mask, density: 0.02, samples: 64}";
  OpenRun run = open(kBert, "{kind: classify, labels: 3}", fish);
  EXPECT_EQ(foresee_delta(run, "", kScoringBudget).masks,
            "spread evenly, as nothing was scored");
  run.train = trial::make_folder(40, /*text=*/false);
  const ForeseenDelta even = foresee_delta(run, "", 0);
  EXPECT_EQ(even.masks, "spread evenly, as nothing was scored");
  const ForeseenDelta scored = foresee_delta(run, "", kScoringBudget);
  EXPECT_EQ(scored.masks, "as 16 of 40 examples score them");
  EXPECT_EQ(scored.delta.trainable(), even.delta.trainable());
  EXPECT_NE(scored.delta.hash().hex(), even.delta.hash().hex());

  // A run's own is taken before that, unless other methods made it.
  const TempFolder folder;
  const std::string file = folder / "delta.safetensors";
  save_delta(file, scored.delta, run.identity);
  const ForeseenDelta own = foresee_delta(run, folder.path(), 0);
  EXPECT_EQ(own.masks, "as in the run");
  EXPECT_EQ(own.delta.hash().hex(), scored.delta.hash().hex());
  OpenRun other = open(kBert, "{kind: classify, labels: 3}",
                       "{method: fish_mask, density: 0.03, samples: 64}");
  EXPECT_EQ(foresee_delta(other, folder.path(), 0).masks,
            "spread evenly, as nothing was scored");
  OpenRun lora = open(kBert, "{kind: classify, labels: 3}",
                      "{method: lora, r: 4, target_modules: [query]}");
  lora.train = run.train;
  EXPECT_EQ(foresee_delta(lora, "", kScoringBudget).masks, "");
}

TEST_F(Estimate, AFewSamplesForetellTheBatch) {
  OpenRun run = open(kBert, "{kind: classify, labels: 2}", "{method: full}");
  const ForeseenDelta delta = declare(run);
  const auto batch = largest_batch(run);
  const StepEstimate all = estimate_step(run, delta, batch, 1e18);
  const StepEstimate few = estimate_step(run, delta, batch, 1);
  EXPECT_NEAR(static_cast<double>(few.memory.tensors) /
                  static_cast<double>(all.memory.tensors),
              1, 0.02);
  EXPECT_NEAR(few.flops.total() / all.flops.total(), 1, 1e-9);
}

// BERT, all of it: 3 products a matrix and token, pooler and head per sample.
TEST_F(Estimate, FlopsByHand) {
  OpenRun run = open(kBert, "{kind: classify, labels: 2}", "{method: full}");
  const StepEstimate e =
      estimate_step(run, declare(run), largest_batch(run), 1e18);
  const double tokens = 6 * 40, d = 32, ff = 64, layers = 6;
  const double linears =
      layers * 2 * tokens * (4 * d * d + 2 * d * ff) + 2 * 6 * (d * d + 2 * d);
  const double attention = layers * 2 * (2 * 6 * 40 * 40 * d);
  EXPECT_DOUBLE_EQ(e.flops.forward, linears + attention);
  EXPECT_DOUBLE_EQ(e.flops.backward, 2 * linears + 2 * attention);
}

// A quarter of the heads and of the channels, in every layer.
TEST_F(Estimate, WhatIsRemovedWholeByHand) {
  OpenRun run = open(kBert, "{kind: classify, labels: 2}",
                     "{method: dsee, r: 4, sparse: 4, support: magnitude, "
                     "prune_after: 1, prune_heads: 1, prune_channels: 0.25}");
  ForeseenDelta now = declare(run);
  const auto batch = largest_batch(run);
  const StepEstimate before = estimate_step(run, now, batch, 1e18);
  EXPECT_EQ(before.flops.removed, 0);
  EXPECT_EQ(describe(before).find("removed"), std::string::npos);
  now.delta.values().add_(0.1);
  const auto scoring = make_scoring(*comm_, *run.backbone, *run.task, nullptr,
                                    1, /*observer=*/nullptr);
  const ForeseenDelta pruned{
      declare_delta(
          *run.backbone, run.methods,
          {.step = 1, .scoring = scoring.get(), .current = &now.delta}),
      ""};
  const StepEstimate e = estimate_step(run, pruned, batch, 1e18);
  const double tokens = 6 * 40, d = 32, ff = 64, layers = 6;
  const double linears = layers * 2 * tokens * (4 * d * d + 2 * d * ff);
  const double attention = layers * 2 * (2 * 6 * 40 * 40 * d);
  EXPECT_DOUBLE_EQ(e.flops.removed, (linears + attention) / 4);
  EXPECT_DOUBLE_EQ(e.flops.forward, before.flops.forward);
  EXPECT_NE(describe(e).find("removed heads and channels"), std::string::npos);
}

TEST_F(Estimate, SaysWhereItWasWrong) {
  StepEstimate e;
  e.memory.tensors = 104;
  e.memory.process = 1000;
  EXPECT_EQ(
      compare(e, {{"peak_tensor_bytes", 100}, {"peak_process_bytes", 1100}}),
      "");
  const std::string line =
      compare(e, {{"peak_tensor_bytes", 90}, {"peak_process_bytes", 1200}});
  EXPECT_NE(line.find("tensors"), std::string::npos) << line;
  EXPECT_NE(line.find("process"), std::string::npos) << line;
}

}  // namespace
}  // namespace thinwire
