// What TrainOptions may hold.
#pragma once

#include "dist/trainer.h"
#include "dist/virtual_shards.h"

namespace thinwire {

// Throw UsageError naming the key, its value and what is allowed.
void check_options(const TrainOptions& options);

// Section comm: what excludes what.
void check_exchange(const ExchangeOptions& options);

// How a deterministic run with `ranks` ranks is cut. Throws UsageError.
VirtualShards virtual_shards(const TrainOptions& options, int ranks);

// Of the run's training data, options as checked.
LoaderOptions loader_options(const TrainOptions& options, int rank, int ranks);
// Samples that a rank's loader hands out at once, and that one batch of an
// evaluation has; options and ranks as checked.
std::int64_t loader_batch(const TrainOptions& options);
std::int64_t eval_batch(const TrainOptions& options, int ranks);

// `steps`, or as many as `epochs` take with `ranks` ranks, rounded up.
std::int64_t total_steps(const TrainOptions& options, std::int64_t samples,
                         int ranks);

}  // namespace thinwire
