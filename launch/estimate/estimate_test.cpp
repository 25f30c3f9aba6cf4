#include "launch/estimate/estimate.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <fstream>

#include "comm/communicator.h"
#include "dist/declare.h"
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

class Estimate : public testing::Test {
 protected:
  void SetUp() override { count_tensor_memory(); }

  OpenRun open(const char* model, const std::string& task,
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
  void expect_affine(OpenRun run) {
    expect_affine(run, declare(run));
  }
  void expect_affine(const OpenRun& run, const ForeseenDelta& foreseen) {
    const auto batch = largest_batch(run);
    const StepEstimate e = estimate_step(run, foreseen, batch, 1e18);
    const LayerPlan all = all_layers(*run.backbone);
    const Probe whole = probe_step(run.config, *run.backbone, foreseen.delta, batch,
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
        "{method: parallel_adapter, bottleneck: 8, drop_first: 2}"}) {
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
