#include "data/feature_folder.h"

#include <fmt/format.h>

#include <algorithm>
#include <filesystem>
#include <limits>
#include <numeric>
#include <system_error>

#include "base/error.h"
#include "data/json_fields.h"

namespace thinwire {
namespace {

constexpr const char* kFormat = "thinwire-features";
constexpr std::int64_t kVersion = 1;
constexpr std::int64_t kMaxSamples = std::int64_t{1} << 48;

}  // namespace

std::int64_t FeatureIndex::samples_in(std::int64_t file) const {
  return std::min(file_samples, samples - file * file_samples);
}

std::int64_t FeatureIndex::bytes() const {
  return std::accumulate(file_bytes.begin(), file_bytes.end(), std::int64_t{0});
}

std::string feature_index_path(const std::string& folder) {
  return folder + "/index.json";
}

std::string feature_file_path(const std::string& folder, std::int64_t file) {
  return fmt::format("{}/features-{:05d}.h5", folder, file);
}

std::string to_text(const FeatureIndex& index) {
  const nlohmann::ordered_json json = {{"format", kFormat},
                                       {"version", kVersion},
                                       {"backbone", index.backbone},
                                       {"data", index.data},
                                       {"layers", index.layers},
                                       {"samples", index.samples},
                                       {"file_samples", index.file_samples},
                                       {"file_bytes", index.file_bytes}};
  return json.dump(1) + "\n";
}

FeatureIndex read_feature_index(const std::string& folder) {
  const std::string path = feature_index_path(folder);
  const nlohmann::json root = read_json(path);
  const Fields f(root, path);
  if (!f.has("format") || f.text("format") != kFormat) {
    fail<UsageError>(
        "{}: 'format' is not {}; give cache.path a folder of its "
        "own",
        path, kFormat);
  }
  const std::int64_t version = f.integer("version", 0, kMaxSamples);
  if (version != kVersion) {
    fail<UsageError>(
        "{}: feature format version {}, this program reads {} (remove the "
        "folder to have it made again)",
        path, version, kVersion);
  }
  FeatureIndex out;
  out.backbone = f.text("backbone");
  out.data = f.text("data");
  out.layers = f.text("layers");
  out.samples = f.integer("samples", 1, kMaxSamples);
  out.file_samples = f.integer("file_samples", 1, kMaxSamples);
  for (const auto& bytes : f.list("file_bytes")) {
    if (!bytes.is_number_unsigned()) {
      fail<UsageError>("{}: 'file_bytes' must be a list of sizes", path);
    }
    out.file_bytes.push_back(bytes.get<std::int64_t>());
  }
  if (out.complete() && std::ssize(out.file_bytes) != out.files()) {
    fail<UsageError>("{}: lists {} files, {} samples fill {}", path,
                     out.file_bytes.size(), out.samples, out.files());
  }
  return out;
}

FeatureFolder::FeatureFolder(std::string path)
    : path_(std::move(path)), index_(read_feature_index(path_)) {
  if (!index_.complete()) {
    fail<UsageError>("{}: its features are not complete", path_);
  }
  std::int64_t place = 0;
  for (std::int64_t i = 0; i < index_.files(); ++i) {
    const std::string file = feature_file_path(path_, i);
    const std::int64_t bytes = index_.file_bytes[static_cast<std::size_t>(i)];
    std::error_code error;
    const auto size = std::filesystem::file_size(file, error);
    if (error || size != static_cast<std::uintmax_t>(bytes)) {
      fail<IoError>(
          "{}: {}, index.json says {} bytes: features are missing; remove the "
          "folder to have them made again",
          file, error ? error.message() : fmt::format("has {} bytes", size),
          bytes);
    }
    files_.emplace_back(file, index_.samples_in(i));
    for (const std::uint64_t key : files_.back().keys()) {
      places_.emplace_back(key, place++);
    }
  }
  std::ranges::sort(places_);
}

void FeatureFolder::add_to(Sample& sample) const {
  const std::uint64_t key = feature_key(sample);
  const auto found = std::ranges::lower_bound(
      places_, std::pair(key, std::numeric_limits<std::int64_t>::min()));
  if (found == places_.end() || found->first != key) {
    fail<UsageError>(
        "{}: has no features of sample {}; remove the folder to have them made "
        "again",
        path_, sample.id);
  }
  const std::int64_t place = found->second;
  sample.features =
      files_[static_cast<std::size_t>(place / index_.file_samples)].read(
          place % index_.file_samples);
}

}  // namespace thinwire
