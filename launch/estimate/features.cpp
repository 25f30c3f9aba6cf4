#include "launch/estimate/features.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <utility>

#include "dist/declare.h"
#include "dist/durable.h"
#include "dist/feature_making.h"
#include "dist/feature_plan.h"
#include "dist/options.h"
#include "dist/stopwatch.h"
#include "launch/estimate/whole_step.h"
#include "launch/progress.h"
#include "launch/report.h"

namespace thinwire {
namespace {

namespace fs = std::filesystem;

constexpr std::int64_t kMostTokens = 2048;

// The path, or the nearest folder above it.
std::string existing_folder(const std::string& path) {
  fs::path at = fs::absolute(path);
  while (!fs::is_directory(at) && at.has_relative_path()) at = at.parent_path();
  return at.string();
}

// A file that is gone when this object goes.
class Scratch {
 public:
  explicit Scratch(const std::string& folder)
      : path_(fmt::format("{}/{}features-{}.h5", folder, kTemporaryPrefix,
                          ::getpid())) {}
  ~Scratch() {
    std::error_code ignored;
    fs::remove(path_, ignored);
  }
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;

  const std::string& path() const { return path_; }

 private:
  std::string path_;
};

// Seconds of a sample with as many numbers as all have in the mean.
void time_some(OpenRun& run, const FeaturePlan& plan, double budget,
               FeaturesEstimate& out) {
  const double tokens =
      budget / (2 * static_cast<double>(run.backbone->parameters().count()));
  std::size_t some = 1;
  while (some < plan.seen.size() &&
         tokens_of(std::span(plan.seen).first(some + 1)) <=
             std::min<double>(tokens, kMostTokens)) {
    ++some;
  }
  const auto samples = std::span(plan.seen).first(some);
  make_records(*run.backbone, *run.task, samples.first(1));  // it allocates
  Stopwatch clock;
  const auto records = make_records(*run.backbone, *run.task, samples);
  out.make_seconds = clock.lap() / 1e3;
  double numbers = 0;
  for (const FeatureRecord& r : records) {
    numbers += static_cast<double>(r.features.values.size());
  }
  const double share = plan.sample_bytes() / (2 * numbers);
  out.make_seconds *= share;
  if (run.config.train.cache.empty()) return;
  FeaturesEstimate::Disk& disk = out.disk.emplace();
  disk.folder = existing_folder(run.config.train.cache);
  disk.free_bytes = static_cast<std::int64_t>(fs::space(disk.folder).available);
  const Scratch scratch(disk.folder);
  clock.lap();
  publish_file(scratch.path(), feature_file(records));
  disk.write_seconds = share * clock.lap() / 1e3;
  disk.read_seconds =
      share * seconds_to_read(scratch.path(), std::ssize(records));
}

}  // namespace

std::optional<FeaturesEstimate> estimate_features(OpenRun& run,
                                                  const ForeseenDelta& foreseen,
                                                  double budget) {
  if (run.train == nullptr) return std::nullopt;
  attach_delta(*run.backbone, run.methods, foreseen.delta);
  if (run.backbone->side() == nullptr) return std::nullopt;
  const TrainOptions& train = run.config.train;
  FeaturesEstimate out;
  out.why_not = why_no_features(*run.backbone);
  const FeaturePlan plan = plan_features(*run.backbone, *run.task, *run.train);
  out.samples = plan.samples;
  out.disk_bytes = plan.bytes;
  out.passes = passes_over(total_steps(train, plan.samples, 1),
                           train.batch_size * train.accumulation, plan.samples);
  if (out.why_not.empty()) time_some(run, plan, budget, out);
  return out;
}

nlohmann::ordered_json to_json(const FeaturesEstimate& e) {
  nlohmann::ordered_json out = {
      {"why_not", e.why_not},           {"samples", e.samples},
      {"disk_bytes", e.disk_bytes},     {"passes", e.passes},
      {"make_seconds", e.make_seconds}, {"without_seconds", e.without()}};
  if (e.disk) {
    out["free_bytes"] = e.disk->free_bytes;
    out["write_seconds"] = e.disk->write_seconds;
    out["read_seconds"] = e.disk->read_seconds;
    out["with_seconds"] = e.with();
  }
  return out;
}

std::string describe(const FeaturesEstimate& e) {
  if (!e.why_not.empty()) return fmt::format("no cache: {}\n", e.why_not);
  const auto n = static_cast<double>(e.samples);
  const std::string size =
      fmt::format("features of {} samples: {} on disk", with_commas(e.samples),
                  human_bytes(static_cast<double>(e.disk_bytes)));
  const std::string time =
      fmt::format("in the backbone, {:.3g} passes on one rank: {}", e.passes,
                  human_seconds(e.without()));
  const std::string made = human_seconds(n * e.make_seconds);
  if (!e.disk) {
    return fmt::format(
        "{}\n{}; for a cache {}, and reading it (set cache.path)\n", size, time,
        made);
  }
  return fmt::format(
      "{}, {} free in {}\n{}; from a cache {} (made {}, written {}, read "
      "{}){}\n",
      size, human_bytes(static_cast<double>(e.disk->free_bytes)),
      e.disk->folder, time, human_seconds(e.with()), made,
      human_seconds(n * e.disk->write_seconds),
      human_seconds(n * e.passes * e.disk->read_seconds),
      e.with() < e.without() ? "" : ": it would not pay");
}

}  // namespace thinwire
