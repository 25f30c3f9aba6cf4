#include "peft/interop/hf_adapter.h"

#include <ATen/core/Tensor.h>

#include <cerrno>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <set>
#include <vector>

#include "base/error.h"
#include "models/safetensors.h"

namespace thinwire {
namespace {

namespace fs = std::filesystem;

constexpr std::string_view kWrapper = "base_model.model.";
constexpr std::string_view kFactorA = ".lora_A.weight";
constexpr std::string_view kFactorB = ".lora_B.weight";

nlohmann::json read_config(const std::string& folder) {
  const std::string path = (fs::path(folder) / "adapter_config.json").string();
  std::ifstream file(path, std::ios::binary);
  if (!file) {
    fail<IoError>(
        "{}: cannot open: {} (an adapter folder holds "
        "adapter_config.json and adapter_model.safetensors)",
        path, std::strerror(errno));
  }
  try {
    auto json = nlohmann::json::parse(file);
    if (!json.is_object()) fail<UsageError>("{}: is no JSON object", path);
    if (json.value("peft_type", "") != "LORA") {
      fail<UsageError>("{}: peft_type is {}; LORA is what is read", path,
                       json.value("peft_type", nlohmann::json()).dump());
    }
    for (const char* key : {"use_dora", "fan_in_fan_out", "lora_bias"}) {
      if (json.contains(key) && json[key] == true) {
        fail<UsageError>("{}: {} is true, which is not read", path, key);
      }
    }
    return json;
  } catch (const nlohmann::json::exception& error) {
    fail<UsageError>("{}: not valid: {}", path, error.what());
  }
}

SafetensorsFile open_weights(const std::string& folder) {
  return SafetensorsFile(
      (fs::path(folder) / "adapter_model.safetensors").string());
}

// The backbone's linear module for one of the file: as named, or below the
// architecture's prefix where the adapter was made on the bare base model.
std::string find_module(const Backbone& backbone, const std::string& module,
                        const std::string& path) {
  const std::string prefixed = backbone.config().architecture + "." + module;
  for (const std::string& name : {module, prefixed}) {
    if (backbone.find_site(SiteKind::kLinear, name) >= 0) return name;
  }
  fail<UsageError>("{}: module '{}' is no linear layer of this {}", path,
                   module, backbone.config().architecture);
}

Config list_of(const nlohmann::json& config, const char* key) {
  Config out = Config::array();
  const auto pattern = config.find(key);
  if (pattern == config.end() || !pattern->is_object()) return Config();
  for (const auto& [name, value] : pattern->items()) {
    out.push_back(name + "=" + value.dump());
  }
  return out.empty() ? Config() : out;
}

struct Contents {
  std::map<std::string, std::string> factors;  // entry -> name on disk
  std::map<std::string, std::string> heads;    // slot -> name on disk
  std::set<std::string> modules;
};

Contents sort_tensors(const SafetensorsFile& file, const Backbone& backbone) {
  Contents out;
  for (const std::string& name : file.names()) {
    std::string rest = name;
    if (rest.starts_with(kWrapper)) rest.erase(0, kWrapper.size());
    const bool a = rest.ends_with(kFactorA), b = rest.ends_with(kFactorB);
    if (a || b) {
      const std::string_view tail = a ? kFactorA : kFactorB;
      rest.resize(rest.size() - tail.size());
      const std::string module = find_module(backbone, rest, file.path());
      out.modules.insert(module);
      out.factors[std::string(kWrapper) + module + std::string(tail)] = name;
      continue;
    }
    const int slot = backbone.parameters().find(rest);
    if (slot < 0 || !backbone.parameters().slot(slot).head) {
      fail<UsageError>(
          "{}: tensor '{}' is neither a LoRA factor of a linear layer nor of a "
          "task head, which is what is read",
          file.path(), name);
    }
    out.heads[rest] = name;
  }
  if (out.modules.empty()) {
    fail<UsageError>("{}: holds no LoRA factors", file.path());
  }
  return out;
}

std::unique_ptr<Method> make_lora(const nlohmann::json& config,
                                  const Contents& contents,
                                  const std::string& folder) {
  try {
    Config given = {{"r", config.at("r").get<std::int64_t>()},
                    {"alpha", config.at("lora_alpha").get<double>()},
                    {"dropout", config.value("lora_dropout", 0.0)},
                    {"use_rslora", config.value("use_rslora", false)},
                    {"train_head", !contents.heads.empty()}};
    given["target_modules"] = contents.modules;
    given["rank_pattern"] = list_of(config, "rank_pattern");
    given["alpha_pattern"] = list_of(config, "alpha_pattern");
    return make_method("lora", given);
  } catch (const nlohmann::json::exception& error) {
    fail<UsageError>("{}/adapter_config.json: {}", folder, error.what());
  }
}

void copy_in(Delta& delta, const DeltaEntry& entry, const std::string& name,
             const SafetensorsFile& file) {
  const at::Tensor tensor = file.tensor(name);
  if (tensor.sizes() != at::IntArrayRef(entry.shape)) {
    fail<UsageError>(
        "{}: tensor '{}' has another shape than this backbone and "
        "adapter_config.json ask for",
        file.path(), name);
  }
  delta.values()
      .narrow(0, entry.offset, entry.count)
      .copy_(tensor.reshape({-1}).to(at::kFloat));
}

}  // namespace

HfAdapterHead read_hf_adapter_head(const std::string& folder) {
  const nlohmann::json config = read_config(folder);
  HfAdapterHead head;
  const auto type = config.find("task_type");
  if (type != config.end() && type->is_string()) head.task_type = *type;
  const SafetensorsFile file = open_weights(folder);
  for (const std::string& name : file.names()) {
    if (name.ends_with(".classifier.weight")) {
      head.labels = file.tensor(name).size(0);
    }
  }
  return head;
}

HfAdapter read_hf_adapter(const std::string& folder, const Backbone& backbone) {
  const nlohmann::json config = read_config(folder);
  const SafetensorsFile file = open_weights(folder);
  const Contents contents = sort_tensors(file, backbone);
  HfAdapter out;
  out.method = make_lora(config, contents, folder);
  DeltaBuilder builder;
  out.method->declare(builder, backbone, {});
  out.delta = builder.build();
  for (const DeltaEntry& entry : out.delta.entries()) {
    const auto& from = entry.head ? contents.heads : contents.factors;
    const auto found = from.find(entry.name);
    if (found == from.end()) {
      fail<UsageError>("{}: tensor '{}' is missing", file.path(), entry.name);
    }
    copy_in(out.delta, entry, found->second, file);
    out.names[entry.name] = found->second;
  }
  return out;
}

}  // namespace thinwire
