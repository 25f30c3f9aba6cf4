// Batch `step` of this rank, whatever came before: of one folder, or of several
// tasks mixed. Internal to data/.
#pragma once

#include <cstdint>
#include <memory>

#include "data/loader.h"

namespace thinwire {

class BatchSource {
 public:
  virtual ~BatchSource() = default;
  // Throws UsageError beyond 2^63 samples, IoError if a shard is damaged.
  virtual SampleBatch batch(std::uint64_t step) = 0;
};

std::unique_ptr<BatchSource> make_batch_source(
    std::shared_ptr<const ShardFolder> folder, const LoaderOptions& options);

}  // namespace thinwire
