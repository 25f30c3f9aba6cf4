#define TORCH_ASSERT_ONLY_METHOD_OPERATORS
#include "launch/method_matrix.h"

#include <ATen/core/Tensor.h>
#include <ATen/ops/zeros.h>

#include <map>
#include <utility>

#include "base/error.h"
#include "models/backbone.h"
#include "models/tensor_source.h"
#include "peft/field_values.h"
#include "peft/method.h"
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

// Of one layer a stack and a public model's width.
std::unique_ptr<Backbone> blank_backbone(const std::string& architecture) {
  Zeros source;
  return make_backbone(
      parse_model_config(configs().at(architecture), architecture), source);
}

// Nothing where the architecture is not for classifying.
std::unique_ptr<Backbone> blank_classifier(const std::string& architecture) {
  auto backbone = blank_backbone(architecture);
  const TaskInfo& info = find_task("classify");
  Zeros source;
  try {
    info.make(complete_fields(info.kind, info.fields, {{"labels", 2}}))
        ->add_head(*backbone, source);
  } catch (const UsageError&) {
    return nullptr;
  }
  return backbone;
}

std::string fit(const MethodInfo& method, const Backbone& bare,
                const Backbone* classifier) {
  const auto fits = [&](const Config& given) {
    return declares(method, bare, given) ||
           (classifier != nullptr && declares(method, *classifier, given));
  };
  if (fits(Config::object())) return "yes";
  for (const Field& f : method.fields) {
    Config given;
    if (f.type == FieldType::kBool) {
      given[std::string(f.name)] = f.default_text != "true";
    } else if (f.type == FieldType::kInt && f.default_text == "0") {
      given[std::string(f.name)] = 1;
    }
    if (!given.empty() && fits(given)) return "with " + std::string(f.name);
  }
  return "no";
}

}  // namespace

std::vector<std::vector<std::string>> method_matrix() {
  std::vector<std::vector<std::string>> rows{{"method"}};
  for (const MethodInfo& m : methods()) rows.push_back({std::string(m.id)});
  for (const std::string& name : backbone_names()) {
    const auto bare = blank_backbone(name);
    const auto classifier = blank_classifier(name);
    rows[0].push_back(name);
    for (std::size_t i = 0; i < methods().size(); ++i) {
      rows[i + 1].push_back(fit(methods()[i], *bare, classifier.get()));
    }
  }
  return rows;
}

}  // namespace thinwire
