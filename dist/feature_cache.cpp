#include "dist/feature_cache.h"

#include <fmt/format.h>

#include <filesystem>
#include <utility>

#include "base/error.h"
#include "comm/communicator.h"
#include "dist/durable.h"
#include "dist/feature_making.h"
#include "dist/feature_plan.h"
#include "dist/stopwatch.h"
#include "dist/together.h"
#include "models/side_features.h"
#include "peft/pruned_weights.h"

namespace thinwire {
namespace {

namespace fs = std::filesystem;

// A file that is smaller says nothing about how fast a disk is, bytes.
constexpr std::int64_t kTimed = 1 << 20;
// Slower than any machine that fills a cache: tokens per second, for how long
// ranks wait for each other.
constexpr double kSlowTokens = 20;

std::string readable(double bytes) {
  return bytes < 1e9 ? fmt::format("{:.3g} MB", bytes / 1e6)
                     : fmt::format("{:.3g} GB", bytes / 1e9);
}

class Filling {
 public:
  Filling(const TrainRun& run, const Delta& delta, std::int64_t steps,
          TrainObserver& observer)
      : run_(run),
        delta_(delta),
        comm_(*run.comm),
        path_(run.options.cache),
        steps_(steps),
        observer_(observer) {}

  std::shared_ptr<const FeatureFolder> open(
      std::shared_ptr<const FeatureFolder> before);

 private:
  template <class... Args>
  [[noreturn]] void refuse(fmt::format_string<Args...> text,
                           Args&&... args) const {
    fail<UsageError>("cache.path {}: {}", path_,
                     fmt::format(text, std::forward<Args>(args)...));
  }
  void check_backbone() const;
  FeatureIndex wanted() const;
  void check_same(const FeatureIndex& found, const FeatureIndex& want) const;
  void begin() const;
  bool is_there(std::int64_t file) const {
    return fs::exists(feature_file_path(path_, file));
  }
  void check_worth() const;
  void check_room(const FeatureIndex& index, const FeaturePlan& plan) const;
  void fill(const FeatureIndex& index);
  void fill_together(FeatureIndex index);

  const TrainRun& run_;
  const Delta& delta_;
  Communicator& comm_;
  const std::string path_;
  const std::int64_t steps_;
  TrainObserver& observer_;
};

void Filling::check_backbone() const {
  const std::string why = why_no_features(*run_.backbone);
  if (!why.empty()) refuse("{}; train without a cache", why);
  // The backbone's identity does not know of it.
  const auto pruned = pruned_bits(delta_.constants());
  if (!pruned.empty()) {
    refuse("numbers of '{}' are removed; train without a cache",
           pruned.begin()->first);
  }
}

FeatureIndex Filling::wanted() const {
  FeatureIndex out;
  out.backbone = run_.identity.hex();
  out.data = run_.train->digest().hex();
  out.layers = side_taps(*run_.backbone).text();
  out.samples = run_.train->index().samples;
  return out;
}

void Filling::check_same(const FeatureIndex& found,
                         const FeatureIndex& want) const {
  const auto same = [&](const char* what, const std::string& there,
                        const std::string& here) {
    if (there == here) return;
    refuse("holds features of {} {}, this run has {}; give another folder",
           what, there, here);
  };
  same("backbone", found.backbone, want.backbone);
  same("training data", found.data, want.data);
  same("layers", found.layers, want.layers);
}

// Makes sure that the folder has an index, and can be filled. Rank 0's.
void Filling::begin() const {
  const bool begun = fs::exists(feature_index_path(path_));
  FeatureIndex index = begun ? read_feature_index(path_) : wanted();
  if (begun) check_same(index, wanted());
  if (index.complete()) return;
  check_worth();
  sweep_temporaries(path_);
  if (!begun && fs::exists(path_) && !fs::is_empty(path_)) {
    refuse("is no folder of features and not empty; give another folder");
  }
  const FeaturePlan plan =
      plan_features(*run_.backbone, *run_.task, *run_.train);
  if (!begun) index.file_samples = plan.file_samples;
  create_folder(path_);
  check_room(index, plan);
  if (!begun) publish_file(feature_index_path(path_), to_text(index));
}

void Filling::check_room(const FeatureIndex& index,
                         const FeaturePlan& plan) const {
  std::int64_t missing = 0;
  for (std::int64_t i = 0; i < index.files(); ++i) {
    if (!is_there(i)) missing += index.samples_in(i);
  }
  const double bytes = plan.sample_bytes() * static_cast<double>(missing);
  const auto free = static_cast<double>(fs::space(path_).available);
  if (bytes <= free) return;
  refuse(
      "features of {} samples take {}, {} are free there; give a folder with "
      "more room, or read fewer layers",
      missing, readable(bytes), readable(free));
}

void Filling::check_worth() const {
  const double passes = passes_over(
      steps_,
      run_.options.batch_size * run_.options.accumulation * comm_.size(),
      run_.train->index().samples);
  if (passes > 1) return;
  refuse(
      "the run goes over its data {:.3g} times, so nothing would be read more "
      "than once; train without a cache, or longer",
      passes);
}

// This rank's files that are not there yet.
void Filling::fill(const FeatureIndex& index) {
  std::vector<std::int64_t> mine;
  for (std::int64_t i = comm_.rank(); i < index.files(); i += comm_.size()) {
    if (!is_there(i)) mine.push_back(i);
  }
  bool timed = false;
  for (std::size_t k = 0; k < mine.size(); ++k) {
    const std::vector<Sample> samples = run_.train->read(
        mine[k] * index.file_samples, index.samples_in(mine[k]));
    Stopwatch clock;
    const auto records = make_records(*run_.backbone, *run_.task, samples);
    const double making = clock.lap() / 1e3;
    const std::string bytes = feature_file(records);
    publish_file(feature_file_path(path_, mine[k]), bytes);
    if (!timed && std::ssize(bytes) >= kTimed) {
      timed = true;
      const std::string why =
          why_not_read(seconds_to_read(feature_file_path(path_, mine[k]),
                                       std::ssize(records)),
                       making, std::ssize(records));
      if (!why.empty()) refuse("{}", why);
    }
    observer_.progress("cache", static_cast<std::int64_t>(k + 1),
                       std::ssize(mine));
  }
}

// All files, and then the index that lists them.
void Filling::fill_together(FeatureIndex index) {
  std::string failed;
  {
    const double tokens = static_cast<double>(index.samples) *
                          static_cast<double>(run_.train->index().max_input +
                                              run_.train->index().max_target);
    const Patience patience(comm_, tokens / comm_.size() / kSlowTokens);
    together(comm_, [&] {
      try {
        fill(index);
      } catch (const IoError& e) {
        failed = first_line(e);
      }
      return true;
    });
  }
  try {
    agree_ok(comm_, failed);
  } catch (const UsageError& e) {
    fail<IoError>(
        "cache.path {}: {}; what was made is kept, start again to go on", path_,
        e.what());
  }
  together(comm_, [&] {
    if (comm_.rank() != 0) return true;
    for (std::int64_t i = 0; i < index.files(); ++i) {
      index.file_bytes.push_back(static_cast<std::int64_t>(
          fs::file_size(feature_file_path(path_, i))));
    }
    publish_file(feature_index_path(path_), to_text(index));
    return true;
  });
}

std::shared_ptr<const FeatureFolder> Filling::open(
    std::shared_ptr<const FeatureFolder> before) {
  agree(comm_, "the features that are read", together(comm_, [&] {
          check_backbone();
          const FeatureIndex want = wanted();
          if (before) check_same(before->index(), want);
          return want.backbone + want.data + want.layers;
        }));
  if (before) return before;
  const Stopwatch clock;
  together(comm_, [&] {
    if (comm_.rank() == 0) begin();
    return true;
  });
  const FeatureIndex index = together(comm_, [&] {
    if (!fs::exists(feature_index_path(path_))) {
      refuse(
          "rank {} does not see what rank 0 wrote there; give a folder that "
          "all hosts share",
          comm_.rank());
    }
    return read_feature_index(path_);
  });
  if (!index.complete()) fill_together(index);
  auto folder = together(
      comm_, [&] { return std::make_shared<const FeatureFolder>(path_); });
  observer_.note(
      fmt::format("features of {} samples, {}, {} {}: {}", index.samples,
                  readable(static_cast<double>(folder->index().bytes())),
                  index.complete()
                      ? "found in"
                      : fmt::format("made in {:.1f} s in", clock.total() / 1e3),
                  path_, index.layers));
  return folder;
}

}  // namespace

std::shared_ptr<const FeatureFolder> open_features(
    const TrainRun& run, const Delta& delta, std::int64_t steps,
    TrainObserver& observer, std::shared_ptr<const FeatureFolder> before) {
  return Filling(run, delta, steps, observer).open(std::move(before));
}

void give_features(const Backbone& backbone, std::span<const Sample> samples,
                   BackboneInput& in) {
  std::vector<const Features*> features;
  for (const Sample& s : samples) {
    if (s.features.values.empty()) return;
    features.push_back(&s.features);
  }
  give_features(backbone, features, in);
}

}  // namespace thinwire
