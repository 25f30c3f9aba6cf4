#include "data/loader.h"

#include <algorithm>
#include <condition_variable>
#include <deque>
#include <exception>
#include <limits>
#include <mutex>
#include <numeric>
#include <thread>
#include <utility>
#include <vector>

#include "base/error.h"
#include "data/order.h"
#include "data/shard_folder.h"

namespace thinwire {
namespace {

using Wide = unsigned __int128;  // samples consumed, before it is checked

OrderOptions order_options(const LoaderOptions& o) {
  return {o.seed, o.shuffle, o.bucket_window, o.bucket_piece};
}

void check(const ShardFolder& folder, const LoaderOptions& o) {
  const auto positive = [](const char* name, std::int64_t value) {
    if (value < 1)
      fail<UsageError>("data: {} must be at least 1, got {}", name, value);
  };
  positive("batch_size", o.batch_size);
  positive("ranks", o.ranks);
  positive("queue_batches", o.queue_batches);
  if (o.rank < 0 || o.rank >= o.ranks) {
    fail<UsageError>("data: rank must be in [0, {}), got {}", o.ranks, o.rank);
  }
  if (o.batch_size > (std::int64_t{1} << 31) / o.ranks) {
    fail<UsageError>(
        "data: {} ranks of batch_size {} are more than 2^31 "
        "samples a step",
        o.ranks, o.batch_size);
  }
  const std::int64_t samples = folder.index().samples;
  if (samples < 1) {
    fail<UsageError>("{}: has no samples (prepare the data again)",
                     folder.path());
  }
  if (samples < o.ranks) {
    fail<UsageError>("{}: has {} samples for {} ranks (use at most {} ranks)",
                     folder.path(), samples, o.ranks, samples);
  }
}

// The order without end, one window at a time, and this rank's samples of it.
class Stream {
 public:
  Stream(std::shared_ptr<const ShardFolder> folder, const LoaderOptions& o)
      : folder_(std::move(folder)),
        options_(o),
        order_(folder_->index().samples, order_options(o),
               [this](std::int64_t first, std::int64_t count) {
                 return folder_->lengths(first, count);
               }) {}
  Stream(const Stream&) = delete;
  Stream& operator=(const Stream&) = delete;

  SampleBatch batch(std::uint64_t step) {
    const auto ranks = static_cast<std::uint64_t>(options_.ranks);
    const auto size = static_cast<std::uint64_t>(options_.batch_size);
    const auto samples = static_cast<std::uint64_t>(order_.samples());
    const Wide first = Wide{step} * ranks * size;
    if (first > std::numeric_limits<std::int64_t>::max()) {
      fail<UsageError>("data: step {} is beyond 2^63 samples", step);
    }
    SampleBatch out;
    out.first_position = static_cast<std::uint64_t>(first);
    out.epoch = out.first_position / samples;
    out.samples.reserve(size);
    std::uint64_t at =
        out.first_position + static_cast<std::uint64_t>(options_.rank) * size;
    for (std::uint64_t i = 0; i < size; ++i, ++at) {
      enter_window_of(at / samples, static_cast<std::int64_t>(at % samples));
      const std::size_t k =
          static_cast<std::size_t>(at % samples) % GlobalOrder::kWindow;
      out.samples.push_back(loaded_[slot_[k]]);
    }
    return out;
  }

 private:
  // Reads those samples of the window that this rank will hand out. With few
  // ranks that is most of each chunk; with many, each chunk is still unpacked
  // whole, which costs less than keeping ranks in step would.
  void enter_window_of(std::uint64_t epoch, std::int64_t position) {
    const std::int64_t w = position / GlobalOrder::kWindow;
    if (epoch == epoch_ && w == window_) return;
    window_ = -1;
    const std::vector<std::int64_t> order = order_.window(epoch, w);
    const Wide begin = Wide{epoch} * static_cast<Wide>(order_.samples()) +
                       static_cast<Wide>(w * GlobalOrder::kWindow);
    std::vector<std::pair<std::int64_t, std::uint32_t>> mine;
    for (std::size_t i = 0; i < order.size(); ++i) {
      const auto turn = static_cast<std::int64_t>(
          (begin + i) / static_cast<Wide>(options_.batch_size) %
          static_cast<Wide>(options_.ranks));
      if (turn == options_.rank) {
        mine.emplace_back(order[i], static_cast<std::uint32_t>(i));
      }
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

  std::shared_ptr<const ShardFolder> folder_;
  LoaderOptions options_;
  GlobalOrder order_;
  std::uint64_t epoch_ = 0;
  std::int64_t window_ = -1;         // none yet
  std::vector<Sample> loaded_;       // this rank's samples of the window
  std::vector<std::uint32_t> slot_;  // where in loaded_, by place in the window
};

class Prefetcher final : public Loader {
 public:
  Prefetcher(std::shared_ptr<const ShardFolder> folder, const LoaderOptions& o)
      : samples_(static_cast<std::uint64_t>(folder->index().samples)),
        limit_(static_cast<std::size_t>(o.queue_batches)),
        stream_(std::move(folder), o),
        thread_([this] { produce(); }) {}

  ~Prefetcher() override {
    {
      const std::lock_guard lock(mutex_);
      stopping_ = true;
    }
    room_.notify_all();
    thread_.join();
  }

  SampleBatch next() override {
    std::unique_lock lock(mutex_);
    filled_.wait(lock, [&] { return !queue_.empty() || error_; });
    // Batches made before the error are still good.
    if (queue_.empty()) std::rethrow_exception(error_);
    SampleBatch batch = std::move(queue_.front());
    queue_.pop_front();
    lock.unlock();
    room_.notify_all();
    return batch;
  }

  void seek(std::uint64_t step) override {
    {
      const std::lock_guard lock(mutex_);
      queue_.clear();
      error_ = nullptr;
      step_ = step;
      ++seeks_;
    }
    room_.notify_all();
  }

  std::uint64_t samples_per_epoch() const override { return samples_; }

 private:
  void produce() {
    std::unique_lock lock(mutex_);
    while (true) {
      room_.wait(lock, [&] {
        return stopping_ || (!error_ && queue_.size() < limit_);
      });
      if (stopping_) return;
      const std::uint64_t step = step_, seeks = seeks_;
      lock.unlock();
      SampleBatch batch;
      std::exception_ptr error;
      try {
        batch = stream_.batch(step);
      } catch (...) {
        error = std::current_exception();
      }
      lock.lock();
      if (seeks != seeks_) continue;  // made for a place we have left
      if (error) {
        error_ = error;
      } else {
        queue_.push_back(std::move(batch));
        ++step_;
      }
      filled_.notify_all();
    }
  }

  const std::uint64_t samples_;
  const std::size_t limit_;
  Stream stream_;  // the thread's alone

  std::mutex mutex_;
  std::condition_variable room_, filled_;
  std::deque<SampleBatch> queue_;
  std::exception_ptr error_;
  std::uint64_t step_ = 0, seeks_ = 0;
  bool stopping_ = false;

  std::thread thread_;  // last: starts when all else is there
};

}  // namespace

std::unique_ptr<Loader> make_loader(std::shared_ptr<const ShardFolder> folder,
                                    const LoaderOptions& options) {
  check(*folder, options);
  return std::make_unique<Prefetcher>(std::move(folder), options);
}

}  // namespace thinwire
