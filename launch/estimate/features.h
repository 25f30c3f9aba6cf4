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
  std::int64_t disk_bytes = 0, free_bytes = 0;
  std::string where;  // it was timed there, and so much is free there
  double passes = 0;  // over the samples, in the run
  // Of a sample in the mean, on one rank, as measured.
  double make_seconds = 0, write_seconds = 0, read_seconds = 0;

  // Of the whole run on one rank.
  double without() const { return passes * all() * make_seconds; }
  double with() const {
    return all() * (make_seconds + write_seconds + passes * read_seconds);
  }

 private:
  double all() const { return static_cast<double>(samples); }
};

// None where no network runs beside the backbone, or the run has no data. Runs
// a few samples through the backbone, as many as `budget` floating-point
// operations allow but one at least, and writes and reads what comes of it,
// where the cache would be or, without one, the run; that file is removed.
std::optional<FeaturesEstimate> estimate_features(OpenRun& run,
                                                  const ForeseenDelta& foreseen,
                                                  double budget);

nlohmann::ordered_json to_json(const FeaturesEstimate& estimate);
std::string describe(const FeaturesEstimate& estimate);

}  // namespace thinwire
