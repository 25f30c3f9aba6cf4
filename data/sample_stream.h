// The samples of one folder in their order without end (epoch 0, epoch 1, …),
// of which this rank reads its share, a window at a time. Internal to data/.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

#include "base/sample.h"
#include "data/order.h"

namespace thinwire {

class ShardFolder;

class SampleStream {
 public:
  // Of the places [first, first + count): which are this rank's.
  using Share =
      std::function<std::vector<bool>(std::uint64_t first, std::int64_t count)>;

  SampleStream(std::shared_ptr<const ShardFolder> folder,
               const OrderOptions& options, Share share);
  SampleStream(const SampleStream&) = delete;  // the order calls this one
  SampleStream& operator=(const SampleStream&) = delete;

  std::uint64_t samples() const {  // of an epoch
    return static_cast<std::uint64_t>(order_.samples());
  }
  // The sample at a place of this rank's share; until the next call. Throws
  // IoError if a shard is damaged.
  const Sample& at(std::uint64_t place);

 private:
  void enter_window_of(std::uint64_t epoch, std::int64_t position);

  std::shared_ptr<const ShardFolder> folder_;
  GlobalOrder order_;
  Share share_;
  std::uint64_t epoch_ = 0;
  std::int64_t window_ = -1;         // none yet
  std::vector<Sample> loaded_;       // this rank's samples of the window
  std::vector<std::uint32_t> slot_;  // where in loaded_, by place in the window
};

}  // namespace thinwire
