// A folder of HDF5 shards with its index.json (docs/data_format.md).
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "base/hash.h"
#include "data/sample.h"

namespace thinwire {

// What index.json says of the whole folder.
struct ShardIndex {
  std::string task_kind;  // classify | regress | text_to_text | …
  std::int64_t samples = 0;
  std::int64_t labels = 0;  // classes, 0 where there are none
  std::vector<std::string> label_names;
  std::int64_t vocab_size = 0;
  std::int64_t pad_id = 0;
  std::int64_t eos_id = -1, cls_id = -1;       // -1: the tokenizer has none
  std::int64_t max_input = 0, max_target = 0;  // longest, in tokens
  std::string tokenizer_sha256;
};

// Thread-safe for reading: HDF5 is entered only while opening (chunk offsets
// are read once); samples are then read with pread, inflated, unshuffled and
// Fletcher32-checked by the calling thread.
class ShardFolder {
 public:
  virtual ~ShardFolder() = default;
  virtual const ShardIndex& index() const = 0;
  virtual const std::string& path() const = 0;
  // Of index.json, which holds the digests of all shards. Throws IoError.
  virtual Digest digest() const;
  // The folders, a task each, that this one puts end to end
  // (data/task_folders.h); empty: it is one of its own.
  virtual std::span<const std::shared_ptr<const ShardFolder>> parts() const {
    return {};
  }
  // Samples [first, first + count) in storage order over all shards. Throws
  // IoError (file, dataset, chunk) on a read error or checksum mismatch.
  virtual std::vector<Sample> read(std::int64_t first,
                                   std::int64_t count) const = 0;
  // The samples at these positions, which must ascend. Every chunk of the
  // shards they touch is read once.
  virtual std::vector<Sample> gather(
      std::span<const std::int64_t> ascending) const = 0;
  // The reference texts of [first, first + count), one or more each, where the
  // shards hold them (text_to_text); else empty.
  using References = std::vector<std::vector<std::string>>;
  virtual References references(std::int64_t first,
                                std::int64_t count) const = 0;
  // Length in tokens of every sample's input (+ target), storage order. Read
  // from the shards at the first call; 4 bytes a sample.
  virtual const std::vector<std::int32_t>& lengths() const = 0;
  // The same for [first, first + count) only, without keeping anything.
  virtual std::vector<std::int32_t> lengths(std::int64_t first,
                                            std::int64_t count) const = 0;
  // Recomputes the checksums of every file and chunk. Throws IoError.
  virtual void verify() const = 0;
  // The token string of each id (the tokenizer's decode table), empty if the
  // folder has none.
  virtual const std::vector<std::string>& vocabulary() const = 0;
};

// Opens and checks the folder: schema version, counts, sizes and offsets.
// Throws UsageError or IoError with one line: file, what, what would be right.
std::shared_ptr<const ShardFolder> open_shard_folder(const std::string& path);

}  // namespace thinwire
