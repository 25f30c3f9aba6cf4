// Features in one HDF5 file: of each sample a record of numbers that a frozen
// model made of it, read in place of running the model again
// (docs/feature_cache.md).
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "base/sample.h"
#include "data/hdf5.h"

namespace thinwire {

// Whose a record is: unique over the tasks of a run.
inline std::uint64_t feature_key(const Sample& sample) {
  return sample.id ^ sample.salt;
}

struct FeatureRecord {
  std::uint64_t key = 0;
  Features features;
};

// The file's bytes, a function of the records alone. Throws IoError.
std::string feature_file(std::span<const FeatureRecord> records);

// Immutable once made; reading is thread-safe. HDF5 is entered only by the
// constructor.
class FeatureFile {
 public:
  // Throws IoError (not such a file, another number of records, datasets that
  // do not fit together), UsageError (another version).
  FeatureFile(std::string path, std::int64_t records);

  const std::vector<std::uint64_t>& keys() const { return keys_; }
  // Throws IoError (file, dataset, chunk).
  Features read(std::int64_t record) const;

 private:
  std::string path_;
  DatasetLayout values_, offsets_, source_;
  std::vector<std::uint64_t> keys_;
};

}  // namespace thinwire
