// What features of a folder of samples take, before any are made.
#pragma once

#include <cstdint>
#include <vector>

#include "data/shard_folder.h"
#include "models/side_features.h"
#include "tasks/task.h"

namespace thinwire {

struct FeaturePlan {
  SideTaps taps;
  std::int64_t samples = 0;
  // Samples that were looked at for what follows, spread over the folder.
  std::vector<Sample> seen;
  std::int64_t bytes = 0;         // of all files
  std::int64_t file_samples = 0;  // of one file

  double sample_bytes() const {
    return static_cast<double>(bytes) / static_cast<double>(samples);
  }
};

// Of the network that is attached to the backbone; exact where the folder is
// small, else as the longer or shorter of all samples say. A function of these
// three alone. Throws what collating throws.
FeaturePlan plan_features(const Backbone& backbone, const Task& task,
                          const ShardFolder& folder);

// How often a run reads each sample, in the mean.
double passes_over(std::int64_t steps, std::int64_t samples_per_step,
                   std::int64_t samples);

}  // namespace thinwire
