// What the tests of methods share: backbones of any size that hold no numbers,
// tiny ones that do, and a loss to train on.
#pragma once

#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "base/error.h"
#include "models/architectures.h"
#include "models/test_models.h"
#include "ops/loss.h"
#include "ops/reference.h"
#include "peft/method.h"
#include "peft/tiny_config.h"

namespace thinwire::testing {

// Tensors whose memory is never touched: counting needs shapes alone.
class CountSource : public TensorSource {
 public:
  at::Tensor get(const std::vector<std::string>&,
                 const std::vector<std::int64_t>& shape, const Init&,
                 bool required) override {
    if (!required) return {};
    return at::empty(shape, at::kFloat);
  }
  bool contains(std::string_view) const override { return false; }
};

inline ModelConfig config_of(const nlohmann::json& json) {
  const std::string path = std::filesystem::temp_directory_path() /
                           ("config_" + std::to_string(getpid()) + ".json");
  std::ofstream(path) << json;
  ModelConfig config = read_model_config(path);
  std::filesystem::remove(path);
  return config;
}

inline void add_head(Backbone& backbone, TensorSource& source,
                     std::int64_t labels) {
  if (labels > 0) add_classifier(backbone, source, labels);
}

// HF's bert-* or roberta-*: 0 labels is no head.
inline std::unique_ptr<Backbone> count_encoder(const nlohmann::json& more,
                                               std::int64_t layers,
                                               std::int64_t d,
                                               std::int64_t labels) {
  CountSource source;
  nlohmann::json json = {{"hidden_size", d},
                         {"num_hidden_layers", layers},
                         {"num_attention_heads", d / 64},
                         {"intermediate_size", 4 * d},
                         {"hidden_act", "gelu"}};
  json.update(more);
  auto backbone = make_bert(config_of(json), source);
  add_head(*backbone, source, labels);
  return backbone;
}

inline std::unique_ptr<Backbone> count_bert(std::int64_t layers, std::int64_t d,
                                            std::int64_t vocab,
                                            std::int64_t labels) {
  return count_encoder({{"model_type", "bert"},
                        {"vocab_size", vocab},
                        {"max_position_embeddings", 512},
                        {"type_vocab_size", 2},
                        {"pad_token_id", 0}},
                       layers, d, labels);
}

inline std::unique_ptr<Backbone> count_roberta(std::int64_t layers,
                                               std::int64_t d,
                                               std::int64_t labels) {
  return count_encoder({{"model_type", "roberta"},
                        {"vocab_size", 50265},
                        {"max_position_embeddings", 514},
                        {"type_vocab_size", 1},
                        {"pad_token_id", 1}},
                       layers, d, labels);
}

// HF's t5-*, 1.0.
inline std::unique_ptr<Backbone> count_t5(std::int64_t layers, std::int64_t d,
                                          std::int64_t heads, std::int64_t d_kv,
                                          std::int64_t d_ff) {
  CountSource source;
  return make_t5(config_of({{"model_type", "t5"},
                            {"d_model", d},
                            {"num_layers", layers},
                            {"num_heads", heads},
                            {"d_kv", d_kv},
                            {"d_ff", d_ff},
                            {"vocab_size", 32128},
                            {"relative_attention_num_buckets", 32},
                            {"feed_forward_proj", "relu"},
                            {"tie_word_embeddings", true},
                            {"pad_token_id", 0},
                            {"eos_token_id", 1},
                            {"decoder_start_token_id", 0}}),
                 source);
}

// HF's gpt2*: 0 labels is no head.
inline std::unique_ptr<Backbone> count_gpt2(std::int64_t layers, std::int64_t d,
                                            std::int64_t labels = 0) {
  CountSource source;
  auto backbone = make_gpt2(config_of({{"model_type", "gpt2"},
                                       {"n_embd", d},
                                       {"n_layer", layers},
                                       {"n_head", d / 64},
                                       {"n_positions", 1024},
                                       {"vocab_size", 50257}}),
                            source);
  add_head(*backbone, source, labels);
  return backbone;
}

// HF's bart-*.
inline std::unique_ptr<Backbone> count_bart(std::int64_t layers,
                                            std::int64_t d) {
  CountSource source;
  return make_bart(config_of({{"model_type", "bart"},
                              {"d_model", d},
                              {"encoder_layers", layers},
                              {"decoder_layers", layers},
                              {"encoder_attention_heads", d / 64},
                              {"decoder_attention_heads", d / 64},
                              {"encoder_ffn_dim", 4 * d},
                              {"decoder_ffn_dim", 4 * d},
                              {"vocab_size", 50265},
                              {"max_position_embeddings", 1024},
                              {"activation_function", "gelu"},
                              {"pad_token_id", 1},
                              {"eos_token_id", 2},
                              {"decoder_start_token_id", 2}}),
                   source);
}

inline Delta declare(Method& method, const Backbone& backbone,
                     const DeclareContext& context = {}) {
  DeltaBuilder builder;
  method.declare(builder, backbone, context);
  return builder.build();
}

// A tiny backbone of the golden data, with head and batch.
struct Tiny {
  explicit Tiny(const std::string& name, std::string_view dtype = "fp32")
      : golden(golden_path(name) + "/golden.safetensors"),
        backbone(load_backbone(golden_path(name))) {
    if (dtype != "fp32") {
      const ModelConfig config = backbone->config();
      backbone = make_backbone(
          config, *matrices_in(dtype, open_weights(golden_path(name), config)));
    }
    // A label per sequence, not per token.
    if (golden.tensor("labels").dim() == 1) {
      const auto source = open_weights(golden_path(name), backbone->config());
      classifier = add_classifier(*backbone, *source, 3);
    }
    batch = golden_inputs(golden, backbone->config());
    number_tasks(batch, 0);
  }

  // Classes [B, C], or of the labels' rows [T, V].
  at::Tensor logits(const BackboneInput& in, ForwardContext ctx = {}) {
    ctx.tasks = in.tasks;
    if (classifier >= 0) return classify(*backbone, classifier, in, ctx);
    return backbone->lm_logits(backbone->forward(in, ctx).token_states(),
                               of_tokens(in, ctx));
  }
  at::Tensor logits() { return logits(batch.input); }
  at::Tensor loss(const BackboneInput& in, ForwardContext ctx = {}) {
    ctx.tasks = in.tasks;
    if (classifier >= 0) return cross_entropy_sum(logits(in, ctx), in.labels);
    return backbone->lm_loss(backbone->forward(in, ctx).token_states(),
                             in.labels, of_tokens(in, ctx));
  }
  at::Tensor loss() { return loss(batch.input); }

  void adopt(Method& method, const Delta& delta) {
    backbone->detach_all();
    backbone->parameters().freeze_all();
    delta.bind(backbone->parameters());
    method.attach(*backbone, delta);
  }

  // Example b of the batch alone.
  HfBatch example(std::int64_t b) const { return examples(b, 1); }
  HfBatch examples(std::int64_t b, std::int64_t n) const {
    NamedTensors one;
    for (const char* name :
         {"input_ids", "attention_mask", "token_type_ids", "labels"}) {
      if (golden.contains(name)) {
        one.emplace_back(name, golden.tensor(name).narrow(0, b, n));
      }
    }
    HfBatch out = read_hf_inputs(one, backbone->config());
    number_tasks(out, b);
    return out;
  }
  // Of task 0 and 1 in turn.
  static void number_tasks(HfBatch& batch, std::int64_t first) {
    for (std::int32_t& task : batch.input.tasks) {
      task = static_cast<std::int32_t>(first++ % 2);
    }
  }

  // Where the labels' rows stand in HF's tensors.
  const HfCells& cells() const {
    return backbone->config().decoder_only ? batch.encoder : batch.decoder;
  }

  SafetensorsFile golden;
  std::unique_ptr<Backbone> backbone;
  int classifier = -1;
  HfBatch batch;

 private:
  ForwardContext of_tokens(const BackboneInput& in, ForwardContext ctx) const {
    ctx.layout = backbone->config().decoder_only ? &in.encoder.layout
                                                 : &in.decoder.layout;
    return ctx;
  }
};

// One rank that scores the examples of a golden batch, all at once or `size` at
// a time.
class TinyScoring : public Scoring {
 public:
  explicit TinyScoring(Tiny& tiny, std::int64_t size = 1 << 20)
      : tiny_(tiny), size_(size) {}

  void for_each_batch(std::int64_t samples, Labels labels,
                      const Visit& visit) override {
    for_each(samples, size_, labels, visit);
  }
  void for_each_example(std::int64_t samples, Labels labels,
                        const Visit& visit) override {
    for_each(samples, 1, labels, visit);
  }
  Backbone& backbone() override { return *tiny_.backbone; }
  void sum_over_ranks(std::span<at::Tensor>) override {}
  void progress(std::string_view, std::int64_t, std::int64_t) override {}

 private:
  void for_each(std::int64_t samples, std::int64_t size, Labels labels,
                const Visit& visit) {
    for (std::int64_t b = 0; b < samples; b += size) {
      const std::int64_t n = std::min(size, samples - b);
      HfBatch batch = tiny_.examples(b, n);
      const auto pass = [&](const std::vector<double>& weights) {
        const at::Tensor loss = tiny_.loss(batch.input);
        visit(weights, [&] { loss.backward(); });
      };
      if (labels == Labels::kData) {
        pass(std::vector<double>(static_cast<std::size_t>(n), 1));
        continue;
      }
      const at::Tensor p = tiny_.logits(batch.input).detach().softmax(1);
      for (std::int64_t c = 0; c < p.size(1); ++c) {
        batch.input.labels = batch.input.labels.detach().clone().fill_(c);
        std::vector<double> weights;
        for (std::int64_t i = 0; i < n; ++i) {
          weights.push_back(p[i][c].item<double>());
        }
        pass(weights);
      }
    }
  }

  Tiny& tiny_;
  std::int64_t size_;
};

// What a UsageError that f throws says; empty: it throws none.
inline std::string refusal(const std::function<void()>& f) {
  try {
    f();
  } catch (const UsageError& e) {
    return e.what();
  }
  return "";
}

}  // namespace thinwire::testing
