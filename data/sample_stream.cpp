#include "data/sample_stream.h"

#include <algorithm>
#include <utility>

#include "data/shard_folder.h"

namespace thinwire {

SampleStream::SampleStream(std::shared_ptr<const ShardFolder> folder,
                           const OrderOptions& options, Share share)
    : folder_(std::move(folder)),
      order_(folder_->index().samples, options,
             [this](std::int64_t first, std::int64_t count) {
               return folder_->lengths(first, count);
             }),
      share_(std::move(share)) {}

const Sample& SampleStream::at(std::uint64_t place) {
  const std::uint64_t in_epoch = place % samples();
  enter_window_of(place / samples(), static_cast<std::int64_t>(in_epoch));
  return loaded_[slot_[static_cast<std::size_t>(in_epoch) %
                       GlobalOrder::kWindow]];
}

// Reads those samples of the window that this rank will hand out. With few
// ranks that is most of each chunk; with many, each chunk is still unpacked
// whole, which costs less than keeping ranks in step would.
void SampleStream::enter_window_of(std::uint64_t epoch, std::int64_t position) {
  const std::int64_t w = position / GlobalOrder::kWindow;
  if (epoch == epoch_ && w == window_) return;
  window_ = -1;
  const std::vector<std::int64_t> order = order_.window(epoch, w);
  const std::vector<bool> share = share_(
      epoch * samples() + static_cast<std::uint64_t>(w * GlobalOrder::kWindow),
      static_cast<std::int64_t>(order.size()));
  std::vector<std::pair<std::int64_t, std::uint32_t>> mine;
  for (std::size_t i = 0; i < order.size(); ++i) {
    if (share[i]) mine.emplace_back(order[i], static_cast<std::uint32_t>(i));
  }
  std::sort(mine.begin(), mine.end());
  std::vector<std::int64_t> ascending;
  ascending.reserve(mine.size());
  slot_.assign(order.size(), 0);
  for (const auto& [sample, i] : mine) {
    slot_[i] = static_cast<std::uint32_t>(ascending.size());
    ascending.push_back(sample);
  }
  loaded_ = folder_->gather(ascending);
  epoch_ = epoch;
  window_ = w;
}

}  // namespace thinwire
