#include "launch/bench/kernel_shapes.h"

#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>

#include "base/error.h"

namespace thinwire {
namespace {

using Json = nlohmann::json;

class Tensors {
 public:
  void linear(std::string name, std::string group, std::int64_t out,
              std::int64_t in, std::int64_t rows) {
    all_.push_back({std::move(name), std::move(group), KernelKind::kLinear, out,
                    in, rows});
  }
  void vector(std::string name, std::string group, KernelKind kind,
              std::int64_t d, std::int64_t rows) {
    all_.push_back({std::move(name), std::move(group), kind, 1, d, rows});
  }
  void embedding(std::string name, std::string group, std::int64_t v,
                 std::int64_t d, std::int64_t rows) {
    all_.push_back({std::move(name), std::move(group), KernelKind::kEmbedding,
                    v, d, rows});
  }
  std::vector<KernelTensor> take() { return std::move(all_); }

 private:
  std::vector<KernelTensor> all_;
};

struct T5Shape {
  std::int64_t d, inner, ff, vocabulary;
  bool gated;
};

void t5_attention(Tensors& out, const std::string& prefix,
                  const std::string& group, const T5Shape& s,
                  std::int64_t queries, std::int64_t keys) {
  out.linear(prefix + "q.weight", group + ".q", s.inner, s.d, queries);
  out.linear(prefix + "k.weight", group + ".kv", s.inner, s.d, keys);
  out.linear(prefix + "v.weight", group + ".kv", s.inner, s.d, keys);
  out.linear(prefix + "o.weight", group + ".o", s.d, s.inner, queries);
}

void t5_stack(Tensors& out, const std::string& stack, const T5Shape& s,
              std::int64_t layers, std::int64_t rows, std::int64_t memory) {
  const auto norm = [&](const std::string& name) {
    out.vector(name, stack + ".norm", KernelKind::kNorm, s.d, rows);
  };
  for (std::int64_t i = 0; i < layers; ++i) {
    const std::string block = fmt::format("{}.block.{}.layer.", stack, i);
    t5_attention(out, block + "0.SelfAttention.", stack + ".self", s, rows,
                 rows);
    norm(block + "0.layer_norm.weight");
    if (memory > 0) {
      t5_attention(out, block + "1.EncDecAttention.", stack + ".cross", s, rows,
                   memory);
      norm(block + "1.layer_norm.weight");
    }
    const std::string last = block + (memory > 0 ? "2." : "1.");
    const std::string ff = last + "DenseReluDense.";
    for (const char* wi : {"wi_0", "wi_1"}) {
      if (!s.gated && wi[3] == '1') continue;
      out.linear(ff + (s.gated ? wi : "wi") + ".weight", stack + ".wi", s.ff,
                 s.d, rows);
    }
    out.linear(ff + "wo.weight", stack + ".wo", s.d, s.ff, rows);
    norm(last + "layer_norm.weight");
  }
  norm(stack + ".final_layer_norm.weight");
}

std::vector<KernelTensor> t5_tensors(const Json& config,
                                     const KernelRows& rows) {
  const std::int64_t layers = config.at("num_layers");
  const T5Shape s{
      .d = config.at("d_model"),
      .inner = config.at("d_kv").get<std::int64_t>() *
               config.at("num_heads").get<std::int64_t>(),
      .ff = config.at("d_ff"),
      .vocabulary = config.at("vocab_size"),
      .gated = config.value("feed_forward_proj", "relu").starts_with("gated")};
  Tensors out;
  const std::int64_t input = rows.batch * rows.input;
  const std::int64_t target = rows.batch * rows.target;
  out.embedding("shared.weight", "embedding", s.vocabulary, s.d,
                input + target);
  t5_stack(out, "encoder", s, layers, input, 0);
  t5_stack(out, "decoder", s, config.value("num_decoder_layers", layers),
           target, input);
  return out.take();
}

std::vector<KernelTensor> bert_tensors(const Json& config,
                                       const KernelRows& rows) {
  const std::int64_t d = config.at("hidden_size");
  const std::int64_t ff = config.at("intermediate_size");
  const std::int64_t tokens = rows.batch * rows.input;
  Tensors out;
  const auto bias = [&](const std::string& name, std::int64_t width,
                        std::int64_t n) {
    out.vector(name, "bias", KernelKind::kBias, width, n);
  };
  const auto linear = [&](const std::string& name, const char* group,
                          std::int64_t to, std::int64_t from, std::int64_t n) {
    out.linear(name + ".weight", group, to, from, n);
    bias(name + ".bias", to, n);
  };
  const auto norm = [&](const std::string& name) {
    out.vector(name + ".weight", "norm", KernelKind::kNorm, d, tokens);
    bias(name + ".bias", d, tokens);
  };
  const std::string e = "bert.embeddings.";
  out.embedding(e + "word_embeddings.weight", "embedding",
                config.at("vocab_size"), d, tokens);
  out.embedding(e + "position_embeddings.weight", "embedding",
                config.at("max_position_embeddings"), d, tokens);
  out.embedding(e + "token_type_embeddings.weight", "embedding",
                config.value("type_vocab_size", 2), d, tokens);
  norm(e + "LayerNorm");
  const std::int64_t layers = config.at("num_hidden_layers");
  for (std::int64_t i = 0; i < layers; ++i) {
    const std::string layer = fmt::format("bert.encoder.layer.{}.", i);
    for (const char* name : {"query", "key", "value"}) {
      linear(layer + "attention.self." + name, "self.qkv", d, d, tokens);
    }
    linear(layer + "attention.output.dense", "self.o", d, d, tokens);
    norm(layer + "attention.output.LayerNorm");
    linear(layer + "intermediate.dense", "intermediate", ff, d, tokens);
    linear(layer + "output.dense", "output", d, ff, tokens);
    norm(layer + "output.LayerNorm");
  }
  linear("bert.pooler.dense", "pooler", d, d, rows.batch);
  return out.take();
}

Json t5_config(int d, int ff, int layers, int heads) {
  return {{"model_type", "t5"}, {"d_model", d},         {"d_ff", ff},
          {"d_kv", 64},         {"num_layers", layers}, {"num_heads", heads},
          {"vocab_size", 32128}};
}

Json bert_config(int d, int ff, int layers) {
  return {{"model_type", "bert"},    {"hidden_size", d},
          {"intermediate_size", ff}, {"num_hidden_layers", layers},
          {"vocab_size", 30522},     {"max_position_embeddings", 512},
          {"type_vocab_size", 2}};
}

Json read_config(const std::string& model) {
  std::filesystem::path path(model);
  if (std::filesystem::is_directory(path)) path /= "config.json";
  std::ifstream file(path);
  if (!file) {
    fail<UsageError>(
        "--model {}: no such config.json, and none of: t5-small, t5-base, "
        "bert-base, minilm",
        model);
  }
  const Json config = Json::parse(file, nullptr, false);
  if (!config.is_object()) fail<IoError>("{}: not JSON", path.string());
  return config;
}

}  // namespace

std::vector<KernelTensor> kernel_tensors(const std::string& model,
                                         const KernelRows& rows) {
  const Json config = model == "t5-small"    ? t5_config(512, 2048, 6, 8)
                      : model == "t5-base"   ? t5_config(768, 3072, 12, 12)
                      : model == "bert-base" ? bert_config(768, 3072, 12)
                      : model == "minilm"    ? bert_config(384, 1536, 6)
                                             : read_config(model);
  const std::string type = config.value("model_type", "");
  try {
    if (type == "t5") return t5_tensors(config, rows);
    if (type == "bert") return bert_tensors(config, rows);
  } catch (const Json::exception& error) {
    fail<UsageError>("--model {}: {}", model, error.what());
  }
  fail<UsageError>("--model {}: model_type is '{}'; t5 and bert are known",
                   model, type);
}

}  // namespace thinwire
