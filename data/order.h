// The global order of samples: which sample comes at which position of which
// epoch, as a function of (seed, epoch) and of nothing else that can differ
// between runs. Random access needs one window, so 10^9 samples start at once.
//
// Stages: (1) chunks of kChunk consecutive samples, permuted by a keyed
// bijection (the incomplete chunk stays last); (2) windows of kWindow
// positions, shuffled whole; (3) inside a window, runs of `bucket_window`
// samples sorted by length and cut into pieces of `bucket_piece`, the pieces
// shuffled again. Pieces begin where the count of all samples since the start
// is a multiple of bucket_piece, so batches of that size stay aligned with them
// in every epoch.
#pragma once

#include <cstdint>
#include <functional>
#include <vector>

namespace thinwire {

struct OrderOptions {
  std::uint64_t seed = 1;
  bool shuffle = true;             // false: storage order, no buckets
  std::int64_t bucket_window = 0;  // samples; 0: no buckets
  std::int64_t bucket_piece = 32;  // samples
};

class GlobalOrder {
 public:
  static constexpr std::int64_t kChunk = 256;           // samples
  static constexpr std::int64_t kWindow = 64 * kChunk;  // samples

  // Lengths in tokens of samples [first, first + count), storage order.
  using Lengths = std::function<std::vector<std::int32_t>(std::int64_t first,
                                                          std::int64_t count)>;

  // Throws UsageError for samples < 1 or options out of range. `lengths` is
  // called only where there are buckets.
  GlobalOrder(std::int64_t samples, const OrderOptions& options,
              Lengths lengths);

  std::int64_t samples() const { return samples_; }
  // Window w holds positions [w * kWindow, …) of an epoch, the last one fewer.
  std::int64_t windows() const { return (samples_ + kWindow - 1) / kWindow; }
  // The samples (positions in storage) of one window, in order.
  std::vector<std::int64_t> window(std::uint64_t epoch, std::int64_t w) const;

 private:
  std::vector<std::int64_t> shuffled(std::uint64_t epoch, std::int64_t w) const;
  void bucket(std::uint64_t epoch, std::int64_t w,
              std::vector<std::int64_t>& order) const;

  std::int64_t samples_;
  OrderOptions options_;
  Lengths lengths_;
};

}  // namespace thinwire
