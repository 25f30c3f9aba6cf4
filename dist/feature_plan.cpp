#include "dist/feature_plan.h"

#include <algorithm>
#include <cmath>

namespace thinwire {
namespace {

constexpr std::int64_t kSeen = 512;  // samples
constexpr std::int64_t kFileBytes = std::int64_t{32} << 20;
constexpr std::int64_t kFewestFiles = 16;  // so that ranks can share them
constexpr std::int64_t kLengthsAtOnce = 1 << 16;
// Beside the numbers: HDF5's own of a file, key, source and offset of a record,
// the checksum of a chunk.
constexpr double kChunk = 65536;
constexpr double kFileOwn = 2100, kRecordOwn = 24, kChunks = 1 + 4 / kChunk;

std::int64_t tokens_of(const Sample& s) {
  return std::ssize(s.input) + std::ssize(s.target);
}

std::int64_t tokens_of(const ShardFolder& folder) {
  const std::int64_t n = folder.index().samples;
  std::int64_t all = 0;
  for (std::int64_t at = 0; at < n; at += kLengthsAtOnce) {
    for (const std::int32_t length :
         folder.lengths(at, std::min(kLengthsAtOnce, n - at))) {
      all += length;
    }
  }
  return all;
}

std::vector<Sample> spread_over(const ShardFolder& folder) {
  const std::int64_t n = folder.index().samples;
  const std::int64_t seen = std::min(n, kSeen);
  std::vector<std::int64_t> at;
  for (std::int64_t i = 0; i < seen; ++i) at.push_back(i * n / seen);
  return folder.gather(at);
}

}  // namespace

FeaturePlan plan_features(const Backbone& backbone, const Task& task,
                          const ShardFolder& folder) {
  FeaturePlan out;
  out.taps = side_taps(backbone);
  out.samples = folder.index().samples;
  out.seen = spread_over(folder);
  double numbers = 0;
  std::int64_t seen_tokens = 0;
  const BackboneInput in = task.collate(out.seen, backbone.config());
  const auto rows = sample_rows(in);
  for (std::size_t b = 0; b < rows.size(); ++b) {
    seen_tokens += tokens_of(out.seen[b]);
    for (std::size_t i = 0; i < rows[b].size(); ++i) {
      numbers += static_cast<double>(out.taps.streams[i].tensors() *
                                     rows[b][i].count() * out.taps.width);
    }
  }
  const double scale =
      static_cast<double>(tokens_of(folder)) / static_cast<double>(seen_tokens);
  const auto n = static_cast<double>(out.samples);
  const double values = 2 * numbers * scale * kChunks + kRecordOwn * n;
  const double fit = static_cast<double>(kFileBytes) * n / values;
  out.file_samples =
      std::clamp<std::int64_t>(static_cast<std::int64_t>(fit), 1,
                               (out.samples + kFewestFiles - 1) / kFewestFiles);
  const std::int64_t files =
      (out.samples + out.file_samples - 1) / out.file_samples;
  // A file's last chunk is as large as the others, its only one as its numbers.
  double file = values / static_cast<double>(files);
  if (file > kChunk) file = std::ceil(file / kChunk) * kChunk;
  out.bytes = std::llround((file + kFileOwn) * static_cast<double>(files));
  return out;
}

double passes_over(std::int64_t steps, std::int64_t samples_per_step,
                   std::int64_t samples) {
  return static_cast<double>(steps) * static_cast<double>(samples_per_step) /
         static_cast<double>(samples);
}

}  // namespace thinwire
