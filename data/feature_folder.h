// A folder of features: what they are of, in index.json, and files of records
// (docs/feature_cache.md). Files and index appear whole or not at all; the
// index that lists the files comes last.
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "data/feature_file.h"

namespace thinwire {

struct FeatureIndex {
  // What the numbers are a function of: digests, in hexadecimal, of the
  // backbone and of the folder of samples; which layers are read.
  std::string backbone, data, layers;
  std::int64_t samples = 0;
  std::int64_t file_samples = 0;  // consecutive ones; the last file fewer
  std::vector<std::int64_t> file_bytes;  // empty: not all files are there yet

  std::int64_t files() const {
    return (samples + file_samples - 1) / file_samples;
  }
  std::int64_t samples_in(std::int64_t file) const;
  bool complete() const { return !file_bytes.empty(); }
  std::int64_t bytes() const;  // of all files
};

std::string feature_index_path(const std::string& folder);
std::string feature_file_path(const std::string& folder, std::int64_t file);
std::string to_text(const FeatureIndex& index);  // JSON
// Throws UsageError (another version, a field that is missing or of the wrong
// kind) or IoError (unreadable, not JSON).
FeatureIndex read_feature_index(const std::string& folder);

// Of a complete folder. Immutable once made; reading is thread-safe and enters
// no HDF5.
class FeatureFolder {
 public:
  // Throws UsageError or IoError with one line: an index of a folder that is
  // not complete, files that are missing, cut off or of other samples.
  explicit FeatureFolder(std::string path);

  const std::string& path() const { return path_; }
  const FeatureIndex& index() const { return index_; }
  // Sets sample.features. Throws UsageError where there is no record of it,
  // IoError (file, dataset, chunk) where that is damaged.
  void add_to(Sample& sample) const;

 private:
  std::string path_;
  FeatureIndex index_;
  std::vector<FeatureFile> files_;
  // Key and place, by key; a place counts over all files.
  std::vector<std::pair<std::uint64_t, std::int64_t>> places_;
};

}  // namespace thinwire
