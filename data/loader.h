// Samples in the global order, prefetched by one background thread.
//
// The global order is a function of (seed, epoch) alone: a keyed bijection over
// chunks of consecutive samples, a shuffle within a window of chunks, then (for
// speed) sorting by length inside runs of `bucket_window` samples whose
// minibatch-sized pieces are shuffled again. It never depends on the number of
// ranks. Global batch s is samples [s*G, (s+1)*G) of the endless order
// epoch 0, epoch 1, …, G = batch_size * ranks; rank r takes the r-th slice of
// batch_size samples. A batch may straddle two epochs, so no sample is dropped.
//
// Of a folder of several tasks each has such an order of its own, and
// data/task_mix.h says which task comes when: for every sample, or for all
// batches of a step.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>

#include "data/sample.h"
#include "data/task_mix.h"

namespace thinwire {

class FeatureFolder;  // data/feature_folder.h
class ShardFolder;    // data/shard_folder.h

struct LoaderOptions {
  std::int64_t batch_size = 32;  // samples per rank and step
  int rank = 0, ranks = 1;
  std::uint64_t seed = 1;
  bool shuffle = true;  // false: storage order, for evaluation
  // Samples whose lengths are sorted together; 0: no buckets. Must not depend
  // on batch_size or ranks alone, or P ranks would differ from one: pieces are
  // `bucket_piece` samples wide.
  std::int64_t bucket_window = 2048;
  std::int64_t bucket_piece = 32;
  std::int64_t queue_batches = 4;     // prefetch bound
  MixingOptions mixing;               // of a folder with parts()
  std::int64_t batches_per_step = 1;  // mixing.one_task: how many have one task
};

class Loader {
 public:
  virtual ~Loader() = default;
  // The next batch of this rank. Blocks on the prefetch thread only. Throws
  // IoError (path, dataset, offset) if a shard is damaged.
  virtual SampleBatch next() = 0;
  // Continue at global batch `step` exactly; O(1) in step.
  virtual void seek(std::uint64_t step) = 0;
  // From the next batch on, samples carry what the folder holds of them
  // (Sample::features), read by the prefetch thread, which then is one batch
  // ahead: features are large. next() throws what reading them throws.
  virtual void add_features(std::shared_ptr<const FeatureFolder> folder) = 0;
  virtual std::uint64_t samples_per_epoch() const = 0;
};

// Throws UsageError if the folder has no samples or fewer than `ranks`.
std::unique_ptr<Loader> make_loader(std::shared_ptr<const ShardFolder> folder,
                                    const LoaderOptions& options);

}  // namespace thinwire
