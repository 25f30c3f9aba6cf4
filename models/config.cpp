#include "models/config.h"

#include <cerrno>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <limits>
#include <sstream>

#include "base/error.h"
#include "base/nearest.h"

namespace thinwire {
namespace {

using nlohmann::json;

// Reads keys with messages that name file, key, value and what would be right.
class Reader {
 public:
  Reader(std::string path, const json& object)
      : path_(std::move(path)), object_(object) {}

  bool has(const char* key) const {
    return object_.contains(key) && !object_[key].is_null();
  }

  std::int64_t positive(const char* key, std::int64_t otherwise = -1) const {
    // The largest product of two dimensions still fits an int64.
    constexpr std::int64_t kMost = std::numeric_limits<std::int32_t>::max();
    return whole(key, 1, kMost, otherwise);
  }

  // Token ids: absent or null is -1.
  std::int64_t token(const char* key, std::int64_t otherwise) const {
    if (!has(key)) return otherwise;
    // Some configs list several end tokens; the first is the model's own.
    const json& value = object_[key].is_array() && !object_[key].empty()
                            ? object_[key][0]
                            : object_[key];
    if (!value.is_number_integer()) wrong(key, "a token id");
    return value.get<std::int64_t>();
  }

  double real(const char* key, double low, double high,
              double otherwise) const {
    if (!has(key)) return otherwise;
    const json& value = object_[key];
    if (!value.is_number() || !(value.get<double>() >= low) ||
        !(value.get<double>() <= high)) {
      wrong(key, fmt::format("a number in [{}, {}]", low, high));
    }
    return value.get<double>();
  }

  double probability(const char* key, double otherwise) const {
    const double p = real(key, 0, 1, otherwise);
    if (p >= 1) wrong(key, "a probability in [0, 1)");
    return p;
  }

  bool flag(const char* key, bool otherwise) const {
    if (!has(key)) return otherwise;
    if (!object_[key].is_boolean()) wrong(key, "true or false");
    return object_[key].get<bool>();
  }

  std::string text(const char* key, std::string otherwise) const {
    if (!has(key)) return otherwise;
    if (!object_[key].is_string()) wrong(key, "a string");
    return object_[key].get<std::string>();
  }

  // The first of several.
  std::int64_t token_below(std::int64_t vocabulary, const char* key,
                           std::int64_t otherwise) const {
    if (!has(key)) return otherwise;
    const std::int64_t id = token(key, otherwise);
    if (id < 0 || id >= vocabulary) {
      wrong(key, fmt::format("a token id below vocab_size {}", vocabulary));
    }
    return id;
  }

  [[noreturn]] void wrong(const char* key, std::string_view right) const {
    fail<UsageError>("{}: {} must be {}, got {}", path_, key, right,
                     object_[key].dump());
  }

  [[noreturn]] void missing(const char* key) const {
    fail<UsageError>("{}: {} is missing", path_, key);
  }

 private:
  std::int64_t whole(const char* key, std::int64_t low, std::int64_t high,
                     std::int64_t otherwise) const {
    if (!has(key)) {
      if (otherwise < 0) missing(key);
      return otherwise;
    }
    const json& value = object_[key];
    const bool fits =
        value.is_number_unsigned()
            ? value.get<std::uint64_t>() <= static_cast<std::uint64_t>(high)
            : value.is_number_integer() && value.get<std::int64_t>() <= high;
    if (!fits || value.get<std::int64_t>() < low) {
      wrong(key, fmt::format("a whole number in [{}, {}]", low, high));
    }
    return value.get<std::int64_t>();
  }

  std::string path_;
  const json& object_;
};

// heads: a key; d, the model's width, is that of `width`.
std::int64_t heads_of(const Reader& in, const char* heads, const char* width,
                      std::int64_t d) {
  const std::int64_t n = in.positive(heads);
  if (d % n != 0) {
    in.wrong(heads, fmt::format("a divisor of {} {}", width, d));
  }
  return n;
}

std::string activation_of(const Reader& in, const char* key) {
  std::string name = in.text(key, "gelu");
  if (name != "gelu" && name != "gelu_new" && name != "relu") {
    in.wrong(key, "gelu, gelu_new or relu");
  }
  return name;
}

void read_bart(const Reader& in, ModelConfig& c) {
  c.d_model = in.positive("d_model");
  c.layers = in.positive("encoder_layers");
  c.decoder_layers = in.positive("decoder_layers");
  c.heads = heads_of(in, "encoder_attention_heads", "d_model", c.d_model);
  c.decoder_heads =
      heads_of(in, "decoder_attention_heads", "d_model", c.d_model);
  c.d_kv = c.d_model / c.heads;
  c.d_ff = in.positive("encoder_ffn_dim");
  c.decoder_d_ff = in.positive("decoder_ffn_dim");
  c.vocab_size = in.positive("vocab_size");
  c.max_positions = in.positive("max_position_embeddings");
  c.first_position = 2;
  c.norm_eps = 1e-5;
  c.activation = activation_of(in, "activation_function");
  if (in.flag("scale_embedding", false)) {
    c.embedding_scale = std::sqrt(static_cast<double>(c.d_model));
  }
  c.dropout = in.probability("dropout", 0.1);
  c.attention_dropout = in.probability("attention_dropout", 0.0);
  c.activation_dropout = in.probability("activation_dropout", 0.0);
  c.classifier_dropout = in.probability("classifier_dropout", 0.0);
  for (const char* key : {"encoder_layerdrop", "decoder_layerdrop"}) {
    if (in.probability(key, 0.0) != 0) {
      in.wrong(key, "0: whole layers are never left out here");
    }
  }
  if (!in.flag("tie_word_embeddings", true)) {
    in.wrong("tie_word_embeddings", "true");
  }
  c.initializer_range = in.real("init_std", 0, 1e3, 0.02);
  c.pad_id = in.token("pad_token_id", 1);
  c.eos_id = in.token("eos_token_id", 2);
  c.decoder_start_id = in.token("decoder_start_token_id", 2);
}

void read_bert(const Reader& in, ModelConfig& c) {
  c.d_model = in.positive("hidden_size");
  c.heads = heads_of(in, "num_attention_heads", "hidden_size", c.d_model);
  c.d_kv = c.d_model / c.heads;
  c.d_ff = in.positive("intermediate_size");
  c.layers = in.positive("num_hidden_layers");
  c.vocab_size = in.positive("vocab_size");
  c.max_positions = in.positive("max_position_embeddings");
  c.type_vocab = in.positive("type_vocab_size", 2);
  c.norm_eps = in.real("layer_norm_eps", 0, 1, 1e-12);
  c.activation = activation_of(in, "hidden_act");
  if (in.text("position_embedding_type", "absolute") != "absolute") {
    in.wrong("position_embedding_type", "absolute");
  }
  if (in.flag("is_decoder", false)) in.wrong("is_decoder", "false");
  c.dropout = in.probability("hidden_dropout_prob", 0.1);
  c.attention_dropout = in.probability("attention_probs_dropout_prob", 0.1);
  c.classifier_dropout = in.probability("classifier_dropout", c.dropout);
  c.initializer_range = in.real("initializer_range", 0, 1e3, 0.02);
  c.pad_id = in.token("pad_token_id", 0);
}

void read_roberta(const Reader& in, ModelConfig& c) {
  read_bert(in, c);
  c.pad_id = in.token("pad_token_id", 1);
  c.padding_has_position = false;
  c.first_position = c.pad_id + 1;
  c.max_positions -= c.first_position;
  if (c.max_positions < 1) {
    in.wrong("max_position_embeddings",
             fmt::format("more than {}", c.first_position));
  }
  c.dense_head = true;
}

void read_gpt2(const Reader& in, ModelConfig& c) {
  c.d_model = in.positive("n_embd", 768);
  c.heads = in.positive("n_head", 12);
  if (c.d_model % c.heads != 0) {
    in.wrong("n_head", fmt::format("a divisor of n_embd {}", c.d_model));
  }
  c.d_kv = c.d_model / c.heads;
  c.d_ff = in.positive("n_inner", 4 * c.d_model);
  c.layers = in.positive("n_layer", 12);
  c.vocab_size = in.positive("vocab_size");
  c.max_positions = in.positive("n_positions", 1024);
  c.norm_eps = in.real("layer_norm_epsilon", 0, 1, 1e-5);
  c.activation = in.text("activation_function", "gelu_new");
  if (c.activation != "gelu" && c.activation != "gelu_new" &&
      c.activation != "relu") {
    in.wrong("activation_function", "gelu, gelu_new or relu");
  }
  if (!in.flag("scale_attn_weights", true)) {
    in.wrong("scale_attn_weights", "true");
  }
  for (const char* key :
       {"scale_attn_by_inverse_layer_idx", "add_cross_attention"}) {
    if (in.flag(key, false)) in.wrong(key, "false");
  }
  c.dropout = in.probability("resid_pdrop", 0.1);
  c.embedding_dropout = in.probability("embd_pdrop", 0.1);
  c.attention_dropout = in.probability("attn_pdrop", 0.1);
  c.classifier_dropout = 0;
  c.initializer_range = in.real("initializer_range", 0, 1e3, 0.02);
  c.pad_id = in.token("pad_token_id", -1);
  c.eos_id = in.token("eos_token_id", 50256);
  c.tied_head = in.flag("tie_word_embeddings", true);
  c.decoder_only = true;
}

void read_t5(const Reader& in, ModelConfig& c) {
  c.d_model = in.positive("d_model");
  c.heads = in.positive("num_heads");
  c.d_kv = in.positive("d_kv");
  c.d_ff = in.positive("d_ff");
  c.layers = in.positive("num_layers");
  c.decoder_layers = in.positive("num_decoder_layers", c.layers);
  c.decoder_heads = c.heads;
  c.decoder_d_ff = c.d_ff;
  c.vocab_size = in.positive("vocab_size");
  c.norm_eps = in.real("layer_norm_epsilon", 0, 1, 1e-6);
  // "relu", "gated-gelu", "gated-silu" …; gated-gelu means the tanh form.
  const std::string ff = in.text("feed_forward_proj", "relu");
  if (ff == "relu" || ff == "gelu" || ff == "gelu_new") {
    c.activation = ff;
  } else if (ff == "gated-gelu" || ff == "gated-gelu_new") {
    c.activation = "gelu_new";
    c.gated = true;
  } else if (ff == "gated-relu") {
    c.activation = "relu";
    c.gated = true;
  } else {
    in.wrong("feed_forward_proj",
             "relu, gelu, gelu_new, gated-gelu or gated-relu");
  }
  c.dropout = in.probability("dropout_rate", 0.1);
  c.attention_dropout = c.dropout;
  c.classifier_dropout = in.probability("classifier_dropout", 0.0);
  c.initializer_range = in.real("initializer_factor", 0, 1e3, 1.0);
  c.relative_buckets = in.positive("relative_attention_num_buckets", 32);
  if (c.relative_buckets < 4 || c.relative_buckets % 2 != 0) {
    in.wrong("relative_attention_num_buckets", "an even number of at least 4");
  }
  c.relative_max_distance = in.positive("relative_attention_max_distance", 128);
  if (c.relative_max_distance <= c.relative_buckets / 2) {
    in.wrong("relative_attention_max_distance",
             "more than half of relative_attention_num_buckets");
  }
  // New releases write scale_decoder_outputs and force tie_word_embeddings to
  // true; in old configs the tie alone decides.
  c.scale_decoder_outputs =
      in.flag("scale_decoder_outputs", in.flag("tie_word_embeddings", true));
  c.pad_id = in.token("pad_token_id", 0);
  c.eos_id = in.token("eos_token_id", 1);
  c.decoder_start_id = in.token("decoder_start_token_id", c.pad_id);
}

struct Architecture {
  const char* name;
  void (*read)(const Reader&, ModelConfig&);
};
constexpr Architecture kArchitectures[] = {{"bart", read_bart},
                                           {"bert", read_bert},
                                           {"gpt2", read_gpt2},
                                           {"roberta", read_roberta},
                                           {"t5", read_t5}};

// As HF's generate() takes them; null and what is not there: none.
void read_generation(const Reader& in, ModelConfig& c) {
  if (c.decoder_layers > 0) {
    const char* start = in.has("decoder_start_token_id")
                            ? "decoder_start_token_id"
                            : "bos_token_id";
    c.generation_start_id =
        in.token_below(c.vocab_size, start, c.decoder_start_id);
  } else if (!c.decoder_only) {
    return;
  }
  c.forced_bos_id = in.token_below(c.vocab_size, "forced_bos_token_id", -1);
  c.forced_eos_id = in.token_below(c.vocab_size, "forced_eos_token_id", -1);
}

std::int64_t label_count(const Reader& in, const json& raw) {
  if (raw.contains("id2label") && raw["id2label"].is_object() &&
      !raw["id2label"].empty()) {
    return static_cast<std::int64_t>(raw["id2label"].size());
  }
  return in.positive("num_labels", 2);
}

json read_object(const std::filesystem::path& file) {
  std::ifstream in(file, std::ios::binary);
  if (!in) {
    fail<IoError>(
        "{}: cannot open: {} (a model folder holds config.json and "
        "model.safetensors)",
        file.string(), std::strerror(errno));
  }
  std::ostringstream text;
  text << in.rdbuf();
  json object;
  try {
    object = json::parse(text.str());
  } catch (const json::exception& e) {
    fail<UsageError>("{}: not valid JSON: {}", file.string(), e.what());
  }
  if (!object.is_object()) {
    fail<UsageError>("{}: not a JSON object", file.string());
  }
  return object;
}

}  // namespace

ModelConfig read_model_config(const std::string& path) {
  std::filesystem::path file = path;
  std::error_code ignored;
  if (std::filesystem::is_directory(file, ignored)) file /= "config.json";
  ModelConfig config = parse_model_config(read_object(file), file.string());
  const auto generation = file.parent_path() / "generation_config.json";
  if (file.filename() == "config.json" &&
      std::filesystem::exists(generation, ignored)) {
    const json object = read_object(generation);
    read_generation(Reader(generation.string(), object), config);
  }
  return config;
}

ModelConfig parse_model_config(json raw, const std::string& where) {
  ModelConfig config;
  config.raw = std::move(raw);
  if (!config.raw.is_object()) {
    fail<UsageError>("{}: not a JSON object", where);
  }
  const Reader reader(where, config.raw);
  if (!reader.has("model_type")) reader.missing("model_type");
  config.architecture = reader.text("model_type", "");
  std::vector<std::string> known;
  for (const auto& architecture : kArchitectures) {
    known.emplace_back(architecture.name);
    if (config.architecture != architecture.name) continue;
    architecture.read(reader, config);
    if (config.pad_id >= config.vocab_size) {
      reader.wrong("pad_token_id",
                   fmt::format("below vocab_size {}", config.vocab_size));
    }
    config.labels = label_count(reader, config.raw);
    read_generation(reader, config);
    return config;
  }
  fail<UsageError>("{}: model_type '{}' is unknown; choose one of: {}", where,
                   config.architecture,
                   list_nearest_first(config.architecture, known));
}

}  // namespace thinwire
