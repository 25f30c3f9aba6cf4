#include "models/export.h"

#include <filesystem>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "models/atomic_file.h"
#include "models/safetensors.h"

namespace thinwire {

nlohmann::json hf_config(const Backbone& backbone) {
  nlohmann::json config = backbone.config().raw;
  config.erase("torch_dtype");
  config["dtype"] = "float32";
  const Parameters& p = backbone.parameters();
  // The last layer of the head of each model that has one.
  constexpr std::pair<const char*, const char*> kHeads[] = {
      {"classifier.weight", "BertForSequenceClassification"},
      {"classifier.out_proj.weight", "RobertaForSequenceClassification"},
      {"score.weight", "GPT2ForSequenceClassification"},
  };
  int head = -1;
  for (const auto& [name, architecture] : kHeads) {
    if (p.find(name) < 0) continue;
    head = p.find(name);
    config["architectures"] = {architecture};
  }
  if (head < 0) return config;
  const std::int64_t labels = p.slot(head).frozen.size(0);
  if (labels == backbone.config().labels && config.contains("id2label")) {
    return config;
  }
  config.erase("num_labels");
  config["id2label"] = nlohmann::json::object();
  config["label2id"] = nlohmann::json::object();
  for (std::int64_t i = 0; i < labels; ++i) {
    config["id2label"][std::to_string(i)] = fmt::format("LABEL_{}", i);
    config["label2id"][fmt::format("LABEL_{}", i)] = i;
  }
  return config;
}

void save_hf_folder(const Backbone& backbone, const std::string& folder,
                    const std::vector<std::pair<int, at::Tensor>>& merged) {
  std::error_code error;
  std::filesystem::create_directories(folder, error);
  if (error) {
    fail<IoError>("{}: cannot make the folder: {}", folder, error.message());
  }
  const Parameters& p = backbone.parameters();
  NamedTensors tensors;
  for (int i = 0; i < p.size(); ++i) {
    tensors.emplace_back(p.slot(i).name, p.get(i, {}).detach());
  }
  for (const auto& [slot, tensor] : merged) {
    THINWIRE_ASSERT(tensor.sizes() == p.slot(slot).frozen.sizes(),
                    "'{}' was merged to another shape", p.slot(slot).name);
    tensors[static_cast<std::size_t>(slot)].second = tensor;
  }
  const std::filesystem::path path = folder;
  write_safetensors((path / "model.safetensors").string(), tensors);
  AtomicFile config((path / "config.json").string());
  const std::string text = hf_config(backbone).dump(2) + "\n";
  config.write(text.data(), text.size());
  config.publish();
}

}  // namespace thinwire
