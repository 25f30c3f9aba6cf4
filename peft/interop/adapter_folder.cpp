#include "peft/interop/adapter_folder.h"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <fstream>

#include "base/error.h"
#include "models/atomic_file.h"
#include "models/new_folder.h"
#include "models/safetensors.h"
#include "peft/interop/format.h"

namespace thinwire {
namespace {

namespace fs = std::filesystem;

constexpr const char* kConfig = "adapter_config.json";
// Of all kinds of folders; what else lies there is nothing of ours.
constexpr const char* kWeights[] = {"adapter_model.safetensors",
                                    "adapter.safetensors",
                                    "model_head.safetensors"};
struct Pickle {
  const char *file, *instead, *how;
};
constexpr Pickle kPickles[] = {
    {"adapter_model.bin", "adapter_model.safetensors",
     "load it with peft and save_pretrained() it, which writes safetensors"},
    {"pytorch_adapter.bin", "adapter.safetensors",
     "load it with `adapters` and save_adapter(…, use_safetensors=True) it"},
    {"pytorch_model_head.bin", "model_head.safetensors",
     "load it with `adapters` and save_adapter(…, use_safetensors=True) it"},
};

std::string join(const std::string& folder, const char* file) {
  return (fs::path(folder) / file).string();
}

Json read_config(const std::string& folder) {
  const std::string path = join(folder, kConfig);
  std::ifstream file(path, std::ios::binary);
  if (!file) {
    fail<IoError>("{}: cannot open: {} (an adapter's folder holds one)", path,
                  std::strerror(errno));
  }
  try {
    Json json = Json::parse(file);
    if (!json.is_object()) fail<UsageError>("{}: is no JSON object", path);
    return json;
  } catch (const Json::exception& error) {
    fail<UsageError>("{}: not valid: {}", path, error.what());
  }
}

TensorsByFile read_tensors(const std::string& folder) {
  TensorsByFile out;
  for (const char* name : kWeights) {
    if (!fs::exists(join(folder, name))) continue;
    const SafetensorsFile file(join(folder, name));
    for (const std::string& tensor : file.names()) {
      out[name].emplace_back(tensor, file.tensor(tensor));
    }
  }
  for (const auto& [file, instead, how] : kPickles) {
    if (out.contains(instead) || !fs::exists(join(folder, file))) continue;
    fail<UsageError>("{}: is Python's pickle, which is not read; {}",
                     join(folder, file), how);
  }
  return out;
}

const AdapterFormat& format_of(const Json& config, const std::string& folder) {
  const auto formats = adapter_formats();
  const auto it = std::ranges::find_if(
      formats, [&](const AdapterFormat* f) { return f->is(config); });
  if (it != formats.end()) return **it;
  std::string what = "is of no known library";
  if (config.contains("peft_type")) {
    what = fmt::format("peft_type is {}", config["peft_type"].dump());
  } else if (config.contains("config")) {
    const Json& inner = config["config"];
    what = inner.is_object()
               ? fmt::format("architecture is {}",
                             inner.value("architecture", Json()).dump())
               : fmt::format("config is {}", inner.dump());
  }
  std::vector<std::string_view> kinds;
  for (const AdapterFormat* f : formats) kinds.push_back(f->kind());
  fail<UsageError>("{}: {}; read is {}", join(folder, kConfig), what,
                   fmt::join(kinds, ", "));
}

// Runs what speaks of adapter_config.json without naming it.
template <class Body>
auto naming_config(const std::string& folder, const Body& body) {
  try {
    return body();
  } catch (const Json::exception& error) {
    fail<UsageError>("{}: {}", join(folder, kConfig), error.what());
  } catch (const UsageError& error) {
    fail<UsageError>("{}: {}", join(folder, kConfig), error.what());
  }
}

bool names_slot(const std::string& tensor, const std::string& slot) {
  return tensor == slot || tensor.ends_with("." + slot);
}

bool holds_head(const TensorsByFile& tensors, const Backbone& backbone) {
  const Parameters& p = backbone.parameters();
  for (int i = 0; i < p.size(); ++i) {
    if (!p.slot(i).head) continue;
    for (const auto& [file, list] : tensors) {
      for (const auto& [name, tensor] : list) {
        if (names_slot(name, p.slot(i).name)) return true;
      }
    }
  }
  return false;
}

// A saved output matrix of a language model, which stays the backbone's here:
// nothing of it is lost if it is the same.
void drop_language_head(TensorsByFile& tensors, const Backbone& backbone,
                        const std::string& folder) {
  const int site = backbone.find_site(SiteKind::kLinear, "lm_head");
  const auto file = tensors.find("model_head.safetensors");
  if (site < 0 || file == tensors.end()) return;
  const int slot = backbone.sites()[static_cast<std::size_t>(site)].weight;
  std::erase_if(file->second, [&](const auto& item) {
    const auto& [name, tensor] = item;
    if (name != "lm_head.weight") return false;
    const at::Tensor& here = backbone.parameters().slot(slot).frozen;
    if (tensor.sizes() == here.sizes() &&
        tensor.to(here.scalar_type()).equal(here)) {
      return true;
    }
    fail<UsageError>(
        "{}: lm_head.weight is not this model's; an output matrix that trains "
        "with an adapter is not read",
        join(folder, "model_head.safetensors"));
  });
}

void write_json(const NewFolder& folder, const std::string& name,
                const Json& json) {
  AtomicFile file(folder / name);
  const std::string text = json.dump(2) + "\n";
  file.write(text.data(), text.size());
  file.publish();
}

// The config of the delta's only method but `head`.
Config only_method(const Delta& delta) {
  std::vector<Config> found;
  std::vector<std::string> ids;
  for (const std::string& text : delta.method_configs()) {
    Config config = Config::parse(text);
    ids.push_back(config.at("method").get<std::string>());
    if (ids.back() != "head") found.push_back(std::move(config));
  }
  if (found.size() == 1) return found[0];
  fail<UsageError>(
      "the delta is of {}; an adapter's folder holds one method, with or "
      "without a head (merge writes all of them into the model)",
      fmt::join(ids, ", "));
}

const AdapterFormat& format_for(const std::string& method,
                                const std::string& library) {
  std::vector<std::string_view> holders;
  for (const AdapterFormat* f : adapter_formats()) {
    if (!f->holds(method)) continue;
    if (library.empty() || library == f->library()) return *f;
    holders.push_back(f->library());
  }
  if (holders.empty()) {
    fail<UsageError>(
        "{}: neither HF peft nor AdapterHub has such an adapter; export it as "
        "full or sparse tensors, or merge it",
        method);
  }
  fail<UsageError>("{}: {} has no such adapter; choose {}", method, library,
                   fmt::join(holders, ", "));
}

}  // namespace

AdapterHead read_adapter_head(const std::string& folder) {
  const Json config = read_config(folder);
  AdapterHead head;
  const auto type = config.find("task_type");
  if (type != config.end() && type->is_string()) head.task_type = *type;
  for (const auto& [file, list] : read_tensors(folder)) {
    for (const auto& [name, tensor] : list) {
      const bool last = names_slot(name, "classifier.weight") ||
                        names_slot(name, "classifier.out_proj.weight") ||
                        names_slot(name, "score.weight");
      if (last && tensor.dim() == 2) head.labels = tensor.size(0);
    }
  }
  return head;
}

AdapterFolder read_adapter_folder(const std::string& folder,
                                  const Backbone& backbone) {
  const Json config = read_config(folder);
  const AdapterFormat& format = format_of(config, folder);
  TensorsByFile tensors = read_tensors(folder);
  drop_language_head(tensors, backbone, folder);
  AdapterFolder out;
  naming_config(folder, [&] {
    EqualMethod choice = format.method(config, backbone);
    choice.config["train_head"] = holds_head(tensors, backbone);
    out.method = make_method(choice.id, choice.config);
    DeltaBuilder builder;
    out.method->declare(builder, backbone, {});
    out.delta = builder.build();
    out.disk = format.tensors(out.delta, backbone, config);
    return 0;
  });
  unpack(out.disk, tensors, folder, out.delta);
  return out;
}

std::vector<std::string_view> adapter_libraries(std::string_view method) {
  std::vector<std::string_view> out;
  for (const AdapterFormat* f : adapter_formats()) {
    if (f->holds(method)) out.push_back(f->library());
  }
  return out;
}

void write_adapter_folder(const std::string& path, const Delta& delta,
                          const Backbone& backbone,
                          const AdapterOptions& options) {
  const Config method = only_method(delta);
  const AdapterFormat& format =
      format_for(method.at("method").get<std::string>(), options.library);
  const WriteContext given{backbone, method, delta, options.model_path,
                           options.name};
  const Json config = format.config(given);
  const std::optional<Delta> prepared = format.prepare(given);
  const WriteContext context{backbone, method, prepared ? *prepared : delta,
                             options.model_path, options.name};
  const auto disk = format.tensors(context.delta, backbone, config);
  require_all_placed(disk, context.delta, format.kind());

  NewFolder folder(path);
  for (const auto& [file, tensors] :
       pack(disk, context.delta, context.delta.values())) {
    write_safetensors(folder / file, tensors);
  }
  write_json(folder, kConfig, config);
  for (const auto& [name, json] : format.more(context)) {
    write_json(folder, name, json);
  }
  folder.publish();
}

}  // namespace thinwire
