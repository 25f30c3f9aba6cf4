#include "data/loader.h"

#include <condition_variable>
#include <deque>
#include <exception>
#include <mutex>
#include <thread>
#include <utility>

#include "base/error.h"
#include "data/batch_source.h"
#include "data/feature_folder.h"
#include "data/shard_folder.h"

namespace thinwire {
namespace {

void check(const ShardFolder& folder, const LoaderOptions& o) {
  const auto positive = [](const char* name, std::int64_t value) {
    if (value < 1)
      fail<UsageError>("data: {} must be at least 1, got {}", name, value);
  };
  positive("batch_size", o.batch_size);
  positive("ranks", o.ranks);
  positive("queue_batches", o.queue_batches);
  positive("batches_per_step", o.batches_per_step);
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

class Prefetcher final : public Loader {
 public:
  Prefetcher(std::shared_ptr<const ShardFolder> folder, const LoaderOptions& o)
      : samples_(static_cast<std::uint64_t>(folder->index().samples)),
        source_(make_batch_source(std::move(folder), o)),
        limit_(static_cast<std::size_t>(o.queue_batches)),
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
    ++next_;
    lock.unlock();
    room_.notify_all();
    return batch;
  }

  void seek(std::uint64_t step) override {
    {
      const std::lock_guard lock(mutex_);
      begin_at(step);
    }
    room_.notify_all();
  }

  void add_features(std::shared_ptr<const FeatureFolder> folder) override {
    {
      const std::lock_guard lock(mutex_);
      features_ = std::move(folder);
      limit_ = 1;
      begin_at(next_);
    }
    room_.notify_all();
  }

  std::uint64_t samples_per_epoch() const override { return samples_; }

 private:
  // mutex_ is held.
  void begin_at(std::uint64_t step) {
    queue_.clear();
    error_ = nullptr;
    step_ = next_ = step;
    ++seeks_;
  }

  void produce() {
    std::unique_lock lock(mutex_);
    while (true) {
      room_.wait(lock, [&] {
        return stopping_ || (!error_ && queue_.size() < limit_);
      });
      if (stopping_) return;
      const std::uint64_t step = step_, seeks = seeks_;
      const auto features = features_;
      lock.unlock();
      SampleBatch batch;
      std::exception_ptr error;
      try {
        batch = source_->batch(step);
        if (features) {
          for (Sample& s : batch.samples) features->add_to(s);
        }
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
  std::unique_ptr<BatchSource> source_;  // the thread's alone

  std::mutex mutex_;
  std::condition_variable room_, filled_;
  std::deque<SampleBatch> queue_;
  std::exception_ptr error_;
  std::shared_ptr<const FeatureFolder> features_;
  std::size_t limit_;
  // To be made and to be handed out next; how often they were set.
  std::uint64_t step_ = 0, next_ = 0, seeks_ = 0;
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
