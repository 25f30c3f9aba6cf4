// What a cache of features (dist/feature_cache.h) would take and save, before
// it is filled: bytes on disk, and the time that a run spends in its backbone
// without it and with it.
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>

#include "launch/estimate/foreseen_delta.h"
#include "launch/open_run.h"

namespace thinwire {

struct FeaturesEstimate {
  std::string why_not;  // no cache can be right; "": one can
  std::int64_t samples = 0;
  std::int64_t disk_bytes = 0;
  double passes = 0;  // over the samples, in the run
  // Of a sample in the mean, on one rank, as measured.
  double make_seconds = 0;
  struct Disk {  // where the cache would be
    std::string folder;
    std::int64_t free_bytes = 0;
    double write_seconds = 0, read_seconds = 0;  // likewise
  };
  std::optional<Disk> disk;  // the config names none

  // Of the whole run on one rank, in the backbone or in its place.
  double without() const { return passes * all() * make_seconds; }
  double with() const {
    return all() *
           (make_seconds + disk->write_seconds + passes * disk->read_seconds);
  }

 private:
  double all() const { return static_cast<double>(samples); }
};

// None where no network runs beside the backbone, or the run has no data. Runs
// a few samples through the backbone, as many as `budget` floating-point
// operations allow but one at least, and writes and reads what comes of it at
// cache.path or the nearest folder above it; that file is removed. Throws
// IoError where it cannot be written.
std::optional<FeaturesEstimate> estimate_features(OpenRun& run,
                                                  const ForeseenDelta& foreseen,
                                                  double budget);

nlohmann::ordered_json to_json(const FeaturesEstimate& estimate);
std::string describe(const FeaturesEstimate& estimate);

}  // namespace thinwire
