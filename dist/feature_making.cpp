#include "dist/feature_making.h"

#include <fcntl.h>
#include <fmt/core.h>

#include <utility>

#include "data/chunked.h"
#include "dist/stopwatch.h"
#include "models/side_features.h"

namespace thinwire {
namespace {

// Of one pass: bounds what it holds. Not a run's batch, whose size must not
// change the numbers.
constexpr std::int64_t kTokens = 2048;

std::int64_t tokens_of(const Sample& s) {
  return std::ssize(s.input) + std::ssize(s.target);
}

}  // namespace

std::vector<FeatureRecord> make_records(Backbone& backbone, Task& task,
                                        std::span<const Sample> samples) {
  std::vector<FeatureRecord> out;
  for (std::size_t begin = 0; begin < samples.size();) {
    std::size_t end = begin + 1;
    std::int64_t tokens = tokens_of(samples[begin]);
    for (; end < samples.size(); ++end) {
      tokens += tokens_of(samples[end]);
      if (tokens > kTokens) break;
    }
    const auto part = samples.subspan(begin, end - begin);
    const BackboneInput in = task.collate(part, backbone.config());
    auto made = make_features(backbone, in, [&] {
      ForwardContext ctx;
      ctx.tasks = in.tasks;
      task.loss(backbone, in, ctx);
    });
    for (std::size_t b = 0; b < made.size(); ++b) {
      out.push_back({feature_key(part[b]), std::move(made[b])});
    }
    begin = end;
  }
  return out;
}

double seconds_to_read(const std::string& path, std::int64_t records) {
  {
    const Descriptor fd = open_file(path);
    ::posix_fadvise(fd.get(), 0, 0, POSIX_FADV_DONTNEED);
  }
  const FeatureFile file(path, records);
  const Stopwatch clock;
  for (std::int64_t i = 0; i < records; ++i) file.read(i);
  return clock.total() / 1e3;
}

std::string why_not_read(double reading, double making, std::int64_t records) {
  if (reading < making) return "";
  const double each = 1e3 / static_cast<double>(records);
  return fmt::format(
      "a sample's features take {:.3g} ms to read there, {:.3g} ms to make; "
      "train without a cache, or give a folder on a faster disk",
      each * reading, each * making);
}

}  // namespace thinwire
