#include "data/feature_file.h"

#include <utility>

#include "base/error.h"
#include "data/hdf5_image.h"
#include "data/ragged.h"

namespace thinwire {
namespace {

constexpr std::int64_t kVersion = 1;
constexpr const char* kVersionName = "thinwire_features";
// Elements of a chunk: what is read too much at a record's ends, against the
// table of chunks that stays in memory.
constexpr std::int64_t kValuesChunk = 32768, kPerRecordChunk = 1024;

}  // namespace

std::string feature_file(std::span<const FeatureRecord> records) {
  std::vector<std::int64_t> offsets{0};
  std::vector<std::uint64_t> keys, sources;
  std::vector<std::uint16_t> values;
  for (const FeatureRecord& r : records) {
    offsets.push_back(offsets.back() + std::ssize(r.features.values));
    keys.push_back(r.key);
    sources.push_back(r.features.source);
  }
  values.reserve(static_cast<std::size_t>(offsets.back()));
  for (const FeatureRecord& r : records) {
    values.insert(values.end(), r.features.values.begin(),
                  r.features.values.end());
  }
  Hdf5Image image;
  image.attribute(kVersionName, kVersion);
  image.dataset("values", values, kValuesChunk);
  std::vector<std::uint16_t>().swap(values);
  image.dataset("offsets", offsets, kPerRecordChunk);
  image.dataset("key", keys, kPerRecordChunk);
  image.dataset("source", sources, kPerRecordChunk);
  return image.end();
}

FeatureFile::FeatureFile(std::string path, std::int64_t records)
    : path_(std::move(path)) {
  DatasetLayout key;
  {
    const std::lock_guard lock(hdf5_mutex());
    const Hdf5File file(path_);
    const std::int64_t version = file.integer_attribute(kVersionName);
    if (version != kVersion) {
      fail<UsageError>(
          "{}: feature format version {}, this program reads {} (remove the "
          "folder to have it made again)",
          path_, version, kVersion);
    }
    values_ = file.layout("values", ElementType::kUint16);
    offsets_ = file.layout("offsets", ElementType::kInt64);
    source_ = file.layout("source", ElementType::kUint64);
    key = file.layout("key", ElementType::kUint64);
  }
  const auto holds = [&](const DatasetLayout& layout, std::int64_t count) {
    if (layout.count == count) return;
    fail<IoError>("{}: /{}: has {} elements, {} are needed", path_, layout.name,
                  layout.count, count);
  };
  holds(offsets_, records + 1);
  holds(key, records);
  holds(source_, records);
  const Descriptor fd = open_file(path_);
  keys_ = ChunkCursor(path_, fd.get(), key).read<std::uint64_t>(0, records);
}

Features FeatureFile::read(std::int64_t record) const {
  const Descriptor fd = open_file(path_);
  RaggedCursor values(path_, fd.get(), values_, offsets_);
  Features out;
  out.values = values.values<std::uint16_t>(values.range(record));
  ChunkCursor(path_, fd.get(), source_).read(record, 1, &out.source);
  return out;
}

}  // namespace thinwire
