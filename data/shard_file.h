// One HDF5 shard: its datasets' layouts, and samples read by them.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "data/hdf5.h"
#include "data/shard_index.h"

namespace thinwire {

// Immutable once made; reading is thread-safe. HDF5 is entered only by the
// constructor. `folder` (the checked index.json) must outlive it.
class ShardFile {
 public:
  // Throws IoError or UsageError: another size than the index says, not HDF5,
  // another version, datasets that do not fit together.
  ShardFile(const FolderIndex& folder, const ShardEntry& entry);

  // Samples at these positions in the shard (ascending, in range) to out.
  void gather(std::span<const std::int64_t> ascending, Sample* out) const;
  // Lengths in tokens, input + target, of [first, first + count).
  void lengths(std::int64_t first, std::int64_t count, std::int32_t* out) const;
  // Reference texts of [first, first + count), at least one each; false if the
  // shard has none.
  bool references(std::int64_t first, std::int64_t count,
                  std::vector<std::string>* out) const;
  // The whole file's digest, then every chunk's checksum.
  void verify() const;

 private:
  struct Ragged {
    DatasetLayout values, offsets;
  };
  Ragged ragged(const Hdf5File& file, const std::string& group,
                ElementType type, std::int64_t entries) const;
  // Throws unless `offsets` has entries + 1 of them, from 0 to `total`.
  void check_offsets(const DatasetLayout& offsets, std::int64_t entries,
                     std::int64_t total) const;
  void check_attributes(const Hdf5File& file) const;
  void check_size() const;
  void check_choices(std::int64_t sample, const Sample& s) const;
  std::vector<const DatasetLayout*> layouts() const;

  const FolderIndex* folder_;
  const ShardEntry* entry_;
  Ragged input_;
  std::optional<Ragged> target_, references_, choices_;
  // Which references each sample has; none: one each.
  std::optional<DatasetLayout> reference_lists_;
  std::optional<DatasetLayout> types_, float_label_, class_label_;
  DatasetLayout id_, task_;
};

}  // namespace thinwire
