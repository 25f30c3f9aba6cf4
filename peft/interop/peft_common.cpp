#include "peft/interop/peft_common.h"

#include <algorithm>
#include <cmath>

#include "base/error.h"

namespace thinwire {
namespace {

constexpr std::string_view kVersion = "0.21.2";

bool trains_head(const Delta& delta) {
  return std::ranges::any_of(delta.entries(), &DeltaEntry::head);
}

std::string_view task_type(const WriteContext& context) {
  if (trains_head(context.delta)) return "SEQ_CLS";
  if (is_encoder_decoder(context.backbone)) return "SEQ_2_SEQ_LM";
  return is_causal(context.backbone) ? "CAUSAL_LM" : "FEATURE_EXTRACTION";
}

// Modules of the head, as modules_to_save names them: whole ones.
std::set<std::string> head_modules(const Delta& delta) {
  std::set<std::string> out;
  for (const DeltaEntry& e : delta.entries()) {
    if (e.head) out.insert(e.target.substr(0, e.target.find('.')));
  }
  return out;
}

// The name below the prefix that base-model checkpoints leave out: "" if it has
// none.
std::string bare_name(const std::string& module, const Backbone& backbone) {
  const std::string prefix = backbone.config().architecture + ".";
  return module.starts_with(prefix) ? module.substr(prefix.size()) : "";
}

std::vector<std::string> names_of(const std::vector<int>& sites,
                                  const Backbone& backbone) {
  std::vector<std::string> out;
  for (const int site : sites) {
    out.push_back(backbone.sites()[static_cast<std::size_t>(site)].name);
  }
  return out;
}

bool matches(const std::string& target, const Backbone& backbone) {
  try {
    match_linear_sites(backbone, std::vector{target}, "");
    return true;
  } catch (const UsageError&) {
    return false;
  }
}

// The last `parts` components of a name.
std::string tail(const std::string& name, int parts) {
  std::size_t at = name.size();
  for (int i = 0; i < parts && at != std::string::npos && at > 0; ++i) {
    at = name.rfind('.', at - 1);
  }
  return at == std::string::npos ? name : name.substr(at + 1);
}

}  // namespace

bool is_causal(const Backbone& backbone) {
  return backbone.config().decoder_only;
}

std::vector<std::string_view> peft_keys(
    std::initializer_list<std::string_view> own) {
  std::vector<std::string_view> out = {
      "auto_mapping",    "base_model_name_or_path",
      "inference_mode",  "modules_to_save",
      "peft_type",       "peft_version",
      "revision",        "task_type",
      "target_modules",  "fan_in_fan_out",
      "tokenizer_kwargs"};
  out.insert(out.end(), own);
  return out;
}

Json peft_config(const WriteContext& context, std::string_view type) {
  const std::set<std::string> heads = head_modules(context.delta);
  return {{"auto_mapping", nullptr},
          {"base_model_name_or_path", context.model_path},
          {"inference_mode", true},
          {"modules_to_save", heads.empty() ? Json() : Json(heads)},
          {"peft_type", type},
          {"peft_version", kVersion},
          {"revision", nullptr},
          {"task_type", task_type(context)}};
}

void add_peft_heads(std::vector<DiskTensor>& out, const Delta& delta,
                    const Backbone&, std::string_view wrapper) {
  for (const DeltaEntry& e : delta.entries()) {
    if (!e.head) continue;
    out.push_back(disk_tensor(std::string(kPeftWeights),
                              std::string(wrapper) + e.target, e));
    out.back().also = {e.target};
  }
}

DiskTensor peft_module_tensor(const DeltaEntry& entry,
                              const Backbone& backbone) {
  DiskTensor d = disk_tensor(std::string(kPeftWeights), entry.name, entry);
  const std::string module = entry.name.substr(kPeftWrapper.size());
  d.also = {module};
  if (const std::string bare = bare_name(module, backbone); !bare.empty()) {
    d.also.push_back(std::string(kPeftWrapper) + bare);
  }
  return d;
}

std::vector<std::string> peft_targets(const Json& targets, std::string_view key,
                                      const Backbone& backbone) {
  if (!targets.is_string() && !targets.is_array()) {
    fail<UsageError>("{} is {}, must be a list of names or one expression", key,
                     targets.dump());
  }
  std::vector<std::string> list;
  if (targets.is_string()) {
    // Of a regular expression or all-linear the whole counts.
    return names_of(match_linear_sites(
                        backbone, std::vector{targets.get<std::string>()}, key),
                    backbone);
  }
  for (const Json& item : targets) {
    auto name = item.get<std::string>();
    if (matches(name, backbone)) list.push_back(std::move(name));
  }
  if (list.empty()) {
    fail<UsageError>("{} {} names no linear layer of this {}", key,
                     targets.dump(), backbone.config().architecture);
  }
  return names_of(match_linear_sites(backbone, list, key), backbone);
}

std::vector<std::string> short_targets(const std::vector<std::string>& modules,
                                       const Backbone& backbone) {
  const std::set<std::string> wanted(modules.begin(), modules.end());
  for (int parts = 1; parts <= 3; ++parts) {
    std::set<std::string> ends;
    for (const std::string& name : modules) ends.insert(tail(name, parts));
    const std::vector<std::string> list(ends.begin(), ends.end());
    const auto found = names_of(
        match_linear_sites(backbone, list, "target_modules"), backbone);
    if (std::set<std::string>(found.begin(), found.end()) == wanted) {
      return list;
    }
  }
  return {wanted.begin(), wanted.end()};
}

Json prompt_config(const WriteContext& context, std::string_view type,
                   std::int64_t length) {
  const ModelConfig& model = context.backbone.config();
  Json out = peft_config(context, type);
  out.update({{"num_attention_heads", model.heads},
              {"num_layers", model.layers},
              {"num_transformer_submodules",
               is_encoder_decoder(context.backbone) ? 2 : 1},
              {"num_virtual_tokens", length},
              {"token_dim", model.d_model}});
  return out;
}

void check_prompt(const Json& config, const Backbone& backbone) {
  const ModelConfig& model = backbone.config();
  const std::pair<const char*, std::int64_t> kMust[] = {
      {"token_dim", model.d_model},
      {"num_layers", model.layers},
      {"num_attention_heads", model.heads}};
  for (const auto& [key, here] : kMust) {
    const Json there = config.value(key, Json());
    if (there.is_null() || there == here) continue;
    fail<UsageError>(
        "{} is {}, of this {} it is {}: the adapter was made for another model",
        key, there.dump(), model.architecture, here);
  }
}

std::int64_t prompt_copies(const Json& config) {
  const Json given = config.value("num_transformer_submodules", Json());
  if (!given.is_null()) return given.get<std::int64_t>();
  return config.value("task_type", Json()) == "SEQ_2_SEQ_LM" ? 2 : 1;
}

bool lies_in_out(const std::vector<std::string>& modules,
                 const Backbone& backbone) {
  return std::ranges::any_of(modules, [&](const std::string& module) {
    const int site = backbone.find_site(SiteKind::kLinear, module);
    THINWIRE_ASSERT(site >= 0, "no module '{}'", module);
    const int weight = backbone.sites()[static_cast<std::size_t>(site)].weight;
    return backbone.parameters().slot(weight).axes == WeightAxes::kInOut;
  });
}

Json plain_number(double value) {
  if (value == std::floor(value) && std::fabs(value) < 1e15) {
    return static_cast<std::int64_t>(value);
  }
  return value;
}

}  // namespace thinwire
