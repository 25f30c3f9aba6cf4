#include "dist/checkpoint.h"

#include <algorithm>
#include <charconv>
#include <filesystem>
#include <map>
#include <utility>

#include "base/error.h"
#include "dist/durable.h"
#include "peft/delta_file.h"

namespace thinwire {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;

constexpr const char* kFormat = "thinwire_checkpoint";
constexpr int kVersion = 1;
constexpr const char* kDelta = "delta.safetensors";
constexpr const char* kOptimizer = "optimizer.safetensors";
constexpr const char* kState = "state.json";
constexpr const char* kManifest = "manifest.json";
constexpr std::string_view kStep = "step-";

std::string join(const std::string& folder, std::string_view name) {
  return (fs::path(folder) / name).string();
}

Json parse(const std::string& path) {
  try {
    return Json::parse(read_file(path));
  } catch (const Json::exception& e) {
    fail<IoError>("{}: is not valid JSON: {}", path, e.what());
  }
}

// Every file but the manifest itself.
void write_manifest(const std::string& folder,
                    const std::vector<std::string>& names) {
  Json files = Json::array();
  for (const std::string& name : names) {
    const std::string path = join(folder, name);
    files.push_back({{"name", name},
                     {"bytes", fs::file_size(path)},
                     {"xxh3_128", hash_file(path).hex()}});
  }
  const Json manifest = {
      {"format", kFormat}, {"version", kVersion}, {"files", files}};
  write_file(join(folder, kManifest), manifest.dump(1) + "\n");
}

void check_file(const std::string& folder, const Json& file) {
  const std::string path =
      join(folder, file.at("name").get_ref<const std::string&>());
  std::error_code error;
  const auto found = fs::file_size(path, error);
  if (error) fail<IoError>("{}: cannot read: {}", path, error.message());
  const auto expected = file.at("bytes").get<std::uintmax_t>();
  if (found != expected) {
    fail<IoError>("{}: has {} bytes, its manifest says {}", path, found,
                  expected);
  }
  const std::string hash = file.at("xxh3_128").get<std::string>();
  if (hash_file(path).hex() != hash) {
    fail<IoError>("{}: checksum differs from its manifest; the file is damaged",
                  path);
  }
}

// Throws unless every file is as it was written.
void verify(const std::string& folder) {
  const std::string path = join(folder, kManifest);
  const Json manifest = parse(path);
  try {
    if (manifest.at("format") != kFormat) {
      fail<IoError>("{}: is not a manifest of a checkpoint", path);
    }
    if (manifest.at("version") != kVersion) {
      fail<UsageError>("{}: format version {}, this build reads {}", path,
                       manifest.at("version").dump(), kVersion);
    }
    for (const Json& file : manifest.at("files")) check_file(folder, file);
  } catch (const Json::exception& e) {
    fail<IoError>("{}: {}", path, e.what());
  }
}

// step-N folders by N.
std::map<std::int64_t, std::string> list_steps(const std::string& folder) {
  std::map<std::int64_t, std::string> steps;
  std::error_code error;
  for (const auto& item : fs::directory_iterator(folder, error)) {
    const std::string name = item.path().filename().string();
    if (!name.starts_with(kStep)) continue;
    std::int64_t step = 0;
    const char* begin = name.data() + kStep.size();
    const char* end = name.data() + name.size();
    const auto parsed = std::from_chars(begin, end, step);
    if (parsed.ec != std::errc() || parsed.ptr != end) continue;
    steps.emplace(step, item.path().string());
  }
  return steps;
}

}  // namespace

void save_checkpoint(const std::string& folder, const Delta& delta,
                     const Digest& backbone, const NamedTensors& optimizer,
                     const nlohmann::ordered_json& state) {
  const fs::path path(folder);
  const std::string temporary =
      (path.parent_path() /
       (std::string(kTemporaryPrefix) + path.filename().string()))
          .string();
  try {
    std::error_code ignored;
    fs::remove_all(temporary, ignored);
    create_folder(temporary);
    std::vector<std::string> names = {kDelta, kState};
    save_delta(join(temporary, kDelta), delta, backbone);
    write_file(join(temporary, kState), state.dump(1) + "\n");
    if (!optimizer.empty()) {
      write_safetensors(join(temporary, kOptimizer), optimizer);
      names.emplace_back(kOptimizer);
    }
    write_manifest(temporary, names);
    sync_folder(temporary);
    publish_folder(temporary, folder);
  } catch (...) {
    std::error_code ignored;
    fs::remove_all(temporary, ignored);
    throw;
  }
}

Checkpoint load_checkpoint(const std::string& folder) {
  verify(folder);
  Checkpoint checkpoint;
  DeltaFile file = load_delta(join(folder, kDelta));
  checkpoint.delta = std::move(file.delta);
  checkpoint.backbone = file.backbone;
  checkpoint.state = parse(join(folder, kState));
  const std::string optimizer = join(folder, kOptimizer);
  if (fs::exists(optimizer)) {
    const SafetensorsFile tensors(optimizer);
    for (const std::string& name : tensors.names()) {
      checkpoint.optimizer.emplace_back(name, tensors.tensor(name));
    }
  }
  return checkpoint;
}

std::optional<std::string> newest_checkpoint(
    const std::string& checkpoints, std::vector<std::string>* skipped) {
  const auto steps = list_steps(checkpoints);
  for (auto it = steps.rbegin(); it != steps.rend(); ++it) {
    try {
      verify(it->second);
      return it->second;
    } catch (const Error& e) {
      if (skipped != nullptr) skipped->emplace_back(e.what());
    }
  }
  return std::nullopt;
}

void prune_checkpoints(const std::string& checkpoints, std::int64_t keep) {
  sweep_temporaries(checkpoints);
  const auto steps = list_steps(checkpoints);
  auto surplus = static_cast<std::int64_t>(steps.size()) - keep;
  for (auto it = steps.begin(); surplus > 0; ++it, --surplus) {
    remove_folder(it->second);
  }
}

}  // namespace thinwire
