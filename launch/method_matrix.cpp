#define TORCH_ASSERT_ONLY_METHOD_OPERATORS
#include "launch/method_matrix.h"

#include <ATen/core/Tensor.h>
#include <ATen/ops/zeros.h>

#include <map>
#include <utility>

#include "base/error.h"
#include "base/nearest.h"
#include "models/tensor_source.h"
#include "peft/field_values.h"
#include "tasks/task.h"

namespace thinwire {
namespace {

class Zeros : public TensorSource {
 public:
  at::Tensor get(const std::vector<std::string>&,
                 const std::vector<std::int64_t>& shape, const Init&,
                 bool required) override {
    if (!required) return {};
    return at::zeros(shape, at::TensorOptions().dtype(at::kFloat));
  }
  bool contains(std::string_view) const override { return false; }
};

nlohmann::json encoder(const char* type) {
  return {{"model_type", type},
          {"hidden_size", 768},
          {"num_hidden_layers", 1},
          {"num_attention_heads", 12},
          {"intermediate_size", 3072},
          {"vocab_size", 5000},
          {"max_position_embeddings", 514},
          {"pad_token_id", 1}};
}

// What a config.json has to say at least.
const std::map<std::string, nlohmann::json>& configs() {
  static const std::map<std::string, nlohmann::json> kConfigs = {
      {"bart",
       {{"model_type", "bart"},
        {"d_model", 768},
        {"encoder_layers", 1},
        {"decoder_layers", 1},
        {"encoder_attention_heads", 12},
        {"decoder_attention_heads", 12},
        {"encoder_ffn_dim", 3072},
        {"decoder_ffn_dim", 3072},
        {"vocab_size", 5000},
        {"max_position_embeddings", 1024}}},
      {"bert", encoder("bert")},
      {"roberta", encoder("roberta")},
      {"gpt2", {{"model_type", "gpt2"}, {"n_layer", 1}, {"vocab_size", 5000}}},
      {"t5",
       {{"model_type", "t5"},
        {"d_model", 768},
        {"num_layers", 1},
        {"num_heads", 12},
        {"d_kv", 64},
        {"d_ff", 3072},
        {"vocab_size", 5000}}}};
  return kConfigs;
}

bool declares(const MethodInfo& method, const Backbone& backbone,
              const Config& given) {
  try {
    DeltaBuilder builder;
    make_method(method.id, given)->declare(builder, backbone, {});
    builder.build();
    return true;
  } catch (const UsageError&) {
    return false;
  }
}

}  // namespace

std::string fit(const MethodInfo& method, const Backbone& backbone) {
  if (declares(method, backbone, Config::object())) return "yes";
  for (const Field& f : method.fields) {
    if (f.type != FieldType::kBool) continue;
    const bool usual = f.default_text == "true";
    if (declares(method, backbone, {{std::string(f.name), !usual}})) {
      return "with " + std::string(f.name);
    }
  }
  return "-";
}

std::unique_ptr<Backbone> blank_backbone(const std::string& architecture) {
  const auto config = configs().find(architecture);
  if (config == configs().end()) {
    fail<UsageError>("'{}' is no architecture; choose one of: {}", architecture,
                     list_nearest_first(architecture, backbone_names()));
  }
  Zeros source;
  auto backbone =
      make_backbone(parse_model_config(config->second, architecture), source);
  const ModelConfig& c = backbone->config();
  if (c.decoder_layers == 0 && !c.decoder_only) {
    const TaskInfo& info = find_task("classify");
    info.make(complete_fields(info.kind, info.fields, {{"labels", 2}}))
        ->add_head(*backbone, source);
  }
  return backbone;
}

std::vector<std::vector<std::string>> method_matrix() {
  std::vector<std::vector<std::string>> rows{{"method"}};
  for (const MethodInfo& m : methods()) rows.push_back({std::string(m.id)});
  for (const std::string& name : backbone_names()) {
    const auto backbone = blank_backbone(name);
    rows[0].push_back(name);
    for (std::size_t i = 0; i < methods().size(); ++i) {
      rows[i + 1].push_back(fit(methods()[i], *backbone));
    }
  }
  return rows;
}

}  // namespace thinwire
