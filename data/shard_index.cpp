#include "data/shard_index.h"

#include <cerrno>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <limits>
#include <nlohmann/json.hpp>
#include <sstream>
#include <system_error>

#include "base/error.h"

namespace thinwire {
namespace {

using nlohmann::json;

constexpr std::int64_t kVersion = 1;
constexpr std::int64_t kMaxSamples = std::int64_t{1} << 48;

json read_json(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  if (!in) fail<IoError>("{}: cannot open: {}", path, std::strerror(errno));
  std::ostringstream text;
  text << in.rdbuf();
  json out = json::parse(text.str(), nullptr, /*allow_exceptions=*/false);
  if (!out.is_object()) {
    fail<IoError>("{}: not a JSON object, the file is damaged", path);
  }
  return out;
}

// Fields of one JSON object, with the path in every complaint.
class Fields {
 public:
  Fields(const json& object, std::string path)
      : object_(&object), path_(std::move(path)) {
    if (!object.is_object()) fail<UsageError>("{}: not an object", path_);
  }

  std::int64_t integer(const char* name, std::int64_t low,
                       std::int64_t high) const {
    const json& value = get(name);
    if (!value.is_number_integer() ||
        (value.is_number_unsigned() &&
         value.get<std::uint64_t>() >
             static_cast<std::uint64_t>(std::numeric_limits<long>::max())) ||
        value.get<std::int64_t>() < low || value.get<std::int64_t>() > high) {
      fail<UsageError>("{}: '{}' must be an integer in [{}, {}]", path_, name,
                       low, high);
    }
    return value.get<std::int64_t>();
  }
  std::string text(const char* name) const {
    const json& value = get(name);
    if (!value.is_string()) {
      fail<UsageError>("{}: '{}' must be a text", path_, name);
    }
    return value.get<std::string>();
  }
  const json& list(const char* name) const {
    const json& value = get(name);
    if (!value.is_array()) {
      fail<UsageError>("{}: '{}' must be a list", path_, name);
    }
    return value;
  }
  std::vector<std::string> texts(const char* name) const {
    std::vector<std::string> out;
    for (const json& item : list(name)) {
      if (!item.is_string()) {
        fail<UsageError>("{}: '{}' must be a list of texts", path_, name);
      }
      out.push_back(item.get<std::string>());
    }
    return out;
  }
  bool has(const char* name) const { return object_->contains(name); }

 private:
  const json& get(const char* name) const {
    const auto it = object_->find(name);
    if (it == object_->end()) fail<UsageError>("{}: has no '{}'", path_, name);
    return *it;
  }

  const json* object_;
  std::string path_;
};

// A name inside the folder, never a way out of it.
std::string member(const std::string& folder, const std::string& name,
                   const std::string& path) {
  if (name.empty() || name.find('/') != std::string::npos ||
      name.find('\0') != std::string::npos || name[0] == '.') {
    fail<UsageError>("{}: '{}' is not a plain file name", path, name);
  }
  return folder + "/" + name;
}

}  // namespace

FolderIndex read_folder_index(const std::string& folder) {
  std::error_code error;
  if (!std::filesystem::is_directory(folder, error)) {
    fail<UsageError>(
        "{}: no such folder of shards (make one with `python "
        "data/prepare.py`)",
        folder);
  }
  const std::string path = folder + "/index.json";
  if (!std::filesystem::exists(path, error)) {
    fail<UsageError>(
        "{}: has no index.json; is it a folder of shards, made by "
        "`python data/prepare.py`?",
        folder);
  }
  const json root = read_json(path);
  const Fields f(root, path);
  constexpr auto kMaxId = std::numeric_limits<std::int32_t>::max();
  if (!f.has("format") || f.text("format") != "thinwire-shards") {
    fail<UsageError>("{}: 'format' is not thinwire-shards", path);
  }
  const std::int64_t version =
      f.integer("version", 0, std::numeric_limits<std::int32_t>::max());
  if (version != kVersion) {
    fail<UsageError>(
        "{}: shard format version {}, this program reads {} "
        "(prepare the data again)",
        path, version, kVersion);
  }

  FolderIndex out;
  ShardIndex& i = out.index;
  i.task_kind = f.text("task");
  i.samples = f.integer("samples", 0, kMaxSamples);
  i.labels = f.integer("labels", 0, kMaxId);
  i.label_names = f.texts("label_names");
  if (static_cast<std::int64_t>(i.label_names.size()) != i.labels) {
    fail<UsageError>("{}: {} label_names for {} labels", path,
                     i.label_names.size(), i.labels);
  }
  i.vocab_size = f.integer("vocab_size", 1, kMaxId);
  i.pad_id = f.integer("pad_id", 0, i.vocab_size - 1);
  i.eos_id = f.integer("eos_id", -1, i.vocab_size - 1);
  i.cls_id = f.integer("cls_id", -1, i.vocab_size - 1);
  i.max_input = f.integer("max_input", 0, kMaxId);
  i.max_target = f.integer("max_target", 0, kMaxId - i.max_input);
  i.tokenizer_sha256 = f.text("tokenizer_sha256");
  if (f.has("vocabulary")) {
    out.vocabulary = member(folder, f.text("vocabulary"), path);
  }

  std::int64_t first = 0;
  for (const json& item : f.list("shards")) {
    const Fields s(item, path + ": shards");
    ShardEntry e;
    e.path = member(folder, s.text("file"), path);
    e.first = first;
    e.samples = s.integer("samples", 1, kMaxSamples);
    e.bytes = s.integer("bytes", 1, std::numeric_limits<std::int64_t>::max());
    try {
      e.digest = Digest::from_hex(s.text("xxh3_128"));
    } catch (const UsageError& error) {
      fail<UsageError>("{}: {}", path, error.what());
    }
    first += e.samples;
    if (first > i.samples) break;
    out.shards.push_back(std::move(e));
  }
  if (first != i.samples) {
    fail<UsageError>("{}: its shards do not add up to {} samples", path,
                     i.samples);
  }
  return out;
}

std::vector<std::string> read_vocabulary(const std::string& path) {
  const json root = read_json(path);
  return Fields(root, path).texts("tokens");
}

}  // namespace thinwire
