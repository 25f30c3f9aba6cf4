// LORA folders of HF peft: A [r, in] and B [out, r] of each module, also where
// the base's weight lies the other way round (GPT-2). Not read: DoRA, biases,
// embeddings, single parameters.
#include <set>

#include "base/error.h"
#include "peft/interop/peft_common.h"

namespace thinwire {
namespace {

constexpr std::string_view kFactorA = ".lora_A.weight";

// As peft writes a LoraConfig on which nothing else was set.
Json defaults() {
  return {{"alora_invocation_tokens", nullptr},
          {"alpha_pattern", Json::object()},
          {"arrow_config", nullptr},
          {"bias", "none"},
          {"corda_config", nullptr},
          {"ensure_weight_tying", false},
          {"eva_config", nullptr},
          {"exclude_modules", nullptr},
          {"init_lora_weights", true},
          {"kasa_config", nullptr},
          {"layer_replication", nullptr},
          {"layers_pattern", nullptr},
          {"layers_to_transform", nullptr},
          {"loftq_config", Json::object()},
          {"lora_bias", false},
          {"lora_ga_config", nullptr},
          {"megatron_config", nullptr},
          {"megatron_core", "megatron.core"},
          {"monteclora_config", nullptr},
          {"qalora_group_size", 16},
          {"target_parameters", nullptr},
          {"trainable_token_indices", nullptr},
          {"use_bdlora", nullptr},
          {"use_dora", false},
          {"use_qalora", false},
          {"velora_config", nullptr}};
}

// {"MODULE": 9} as ["MODULE=9"], and back.
Config pattern_list(const Json& config, const char* key) {
  Config out = Config::array();
  const auto pattern = config.find(key);
  if (pattern == config.end() || !pattern->is_object()) return Config();
  for (const auto& [name, value] : pattern->items()) {
    out.push_back(name + "=" + value.dump());
  }
  return out.empty() ? Config() : out;
}

Json pattern_object(const Config& list) {
  Json out = Json::object();
  if (list.is_null()) return out;
  for (const Config& item : list) {
    const auto text = item.get<std::string>();
    const std::size_t equals = text.rfind('=');
    out[text.substr(0, equals)] =
        plain_number(std::stod(text.substr(equals + 1)));
  }
  return out;
}

class PeftLora : public AdapterFormat {
 public:
  std::string_view library() const override { return "peft"; }
  std::string_view kind() const override { return "a LORA folder of HF peft"; }
  std::vector<std::string_view> methods() const override { return {"lora"}; }

  bool is(const Json& config) const override {
    return config.value("peft_type", Json()) == "LORA";
  }

  EqualMethod method(const Json& config,
                     const Backbone& backbone) const override {
    if (const Json bias = config.value("bias", Json("none")); bias != "none") {
      fail<UsageError>("bias is {}, only \"none\" is read", bias.dump());
    }
    // Initial values do not matter to a file that holds the trained ones.
    refuse_unread(
        config,
        peft_keys({"r", "lora_alpha", "lora_dropout", "use_rslora",
                   "rank_pattern", "alpha_pattern", "bias", "init_lora_weights",
                   "loftq_config", "eva_config", "corda_config",
                   "lora_ga_config", "megatron_core", "qalora_group_size"}));
    Config given = {{"r", config.at("r").get<std::int64_t>()},
                    {"alpha", config.at("lora_alpha").get<double>()},
                    {"dropout", config.value("lora_dropout", 0.0)},
                    {"use_rslora", config.value("use_rslora", false)},
                    {"rank_pattern", pattern_list(config, "rank_pattern")},
                    {"alpha_pattern", pattern_list(config, "alpha_pattern")}};
    const Json targets = config.value("target_modules", Json());
    if (!targets.is_null()) {
      given["target_modules"] = short_targets(
          peft_targets(targets, "target_modules", backbone), backbone);
    }
    return {"lora", given};
  }

  Json config(const WriteContext& context) const override {
    Json out = peft_config(context, "LORA");
    out.update(defaults());
    const Config& method = context.method;
    out["r"] = method.at("r").get<std::int64_t>();
    out["lora_alpha"] = plain_number(method.at("alpha").get<double>());
    out["lora_dropout"] = method.at("dropout").get<double>();
    out["use_rslora"] = method.at("use_rslora").get<bool>();
    out["rank_pattern"] = pattern_object(method.at("rank_pattern"));
    out["alpha_pattern"] = pattern_object(method.at("alpha_pattern"));
    std::vector<std::string> modules;
    for (const DeltaEntry& e : context.delta.entries()) {
      if (!e.name.ends_with(kFactorA)) continue;
      modules.push_back(
          e.name.substr(kPeftWrapper.size(),
                        e.name.size() - kPeftWrapper.size() - kFactorA.size()));
    }
    out["target_modules"] = short_targets(modules, context.backbone);
    out["fan_in_fan_out"] = lies_in_out(modules, context.backbone);
    return out;
  }

  std::vector<DiskTensor> tensors(const Delta& delta, const Backbone& backbone,
                                  const Json&) const override {
    std::vector<DiskTensor> out;
    for (const DeltaEntry& e : delta.entries()) {
      if (e.name.find(".lora_") == std::string::npos) continue;
      out.push_back(peft_module_tensor(e, backbone));
    }
    add_peft_heads(out, delta, backbone, kPeftWrapper);
    return out;
  }
};

}  // namespace

const AdapterFormat& peft_lora_format() {
  static const PeftLora kFormat;
  return kFormat;
}

}  // namespace thinwire
