#include "data/shard_index.h"

#include <filesystem>
#include <limits>
#include <system_error>

#include "base/error.h"
#include "data/json_fields.h"

namespace thinwire {
namespace {

using nlohmann::json;

constexpr std::int64_t kVersion = 1;
constexpr std::int64_t kMaxSamples = std::int64_t{1} << 48;

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
