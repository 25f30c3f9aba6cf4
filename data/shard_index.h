// index.json of a folder of shards, parsed and checked (docs/data_format.md).
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/hash.h"
#include "data/shard_folder.h"

namespace thinwire {

struct ShardEntry {
  std::string path;          // folder + file name
  std::int64_t first = 0;    // its first sample, in storage order
  std::int64_t samples = 0;  // at least 1
  std::int64_t bytes = 0;    // of the file
  Digest digest;
};

struct FolderIndex {
  ShardIndex index;
  std::vector<ShardEntry> shards;
  std::string vocabulary;  // path of vocab.json, empty if there is none
};

// Throws UsageError (no such folder, another version, a field that is missing
// or of the wrong kind) or IoError (unreadable, not JSON).
FolderIndex read_folder_index(const std::string& folder);

// The `tokens` of vocab.json. Throws as above.
std::vector<std::string> read_vocabulary(const std::string& path);

}  // namespace thinwire
