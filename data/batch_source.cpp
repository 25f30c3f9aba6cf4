#include "data/batch_source.h"

#include <algorithm>
#include <limits>
#include <utility>
#include <vector>

#include "base/error.h"
#include "base/random.h"
#include "data/sample_stream.h"
#include "data/shard_folder.h"

namespace thinwire {
namespace {

using Wide = unsigned __int128;  // samples consumed, before it is checked

OrderOptions order_options(const LoaderOptions& o) {
  return {o.seed, o.shuffle, o.bucket_window, o.bucket_piece};
}

// Tasks of equal size do not follow one order.
OrderOptions order_options(const LoaderOptions& o, std::size_t task) {
  OrderOptions out = order_options(o);
  out.seed = mix64(mix64(o.seed) ^ task);
  return out;
}

// Rank r takes the r-th slice of every global batch.
bool takes(const LoaderOptions& o, std::uint64_t place) {
  const std::uint64_t slice = place / static_cast<std::uint64_t>(o.batch_size);
  return slice % static_cast<std::uint64_t>(o.ranks) ==
         static_cast<std::uint64_t>(o.rank);
}

SampleStream::Share slices(const LoaderOptions& o) {
  return [o](std::uint64_t first, std::int64_t count) {
    std::vector<bool> out(static_cast<std::size_t>(count));
    for (std::size_t i = 0; i < out.size(); ++i) out[i] = takes(o, first + i);
    return out;
  };
}

class Source : public BatchSource {
 public:
  Source(const LoaderOptions& o, std::uint64_t samples)
      : options_(o), samples_(samples) {}

  SampleBatch batch(std::uint64_t step) final {
    const auto size = static_cast<std::uint64_t>(options_.batch_size);
    const Wide first =
        Wide{step} * static_cast<std::uint64_t>(options_.ranks) * size;
    if (first > std::numeric_limits<std::int64_t>::max()) {
      fail<UsageError>("data: step {} is beyond 2^63 samples", step);
    }
    SampleBatch out;
    out.first_position = static_cast<std::uint64_t>(first);
    out.epoch = out.first_position / samples_;
    out.samples.reserve(size);
    const std::uint64_t slice =
        static_cast<std::uint64_t>(options_.rank) * size;
    begin(step, out.first_position);
    for (std::uint64_t i = 0; i < size; ++i) {
      out.samples.push_back(sample(slice + i));
    }
    return out;
  }

 protected:
  // The batch whose samples are asked for next.
  virtual void begin(std::uint64_t step, std::uint64_t first_position) = 0;
  virtual const Sample& sample(std::uint64_t in_batch) = 0;

  const LoaderOptions options_;
  const std::uint64_t samples_;  // of an epoch
};

class OneFolder final : public Source {
 public:
  OneFolder(std::shared_ptr<const ShardFolder> folder, const LoaderOptions& o)
      : Source(o, static_cast<std::uint64_t>(folder->index().samples)),
        stream_(std::move(folder), order_options(o), slices(o)) {}

 private:
  void begin(std::uint64_t, std::uint64_t first_position) override {
    first_ = first_position;
  }
  const Sample& sample(std::uint64_t in_batch) override {
    return stream_.at(first_ + in_batch);
  }

  SampleStream stream_;
  std::uint64_t first_ = 0;
};

// Every task has its own order without end, and goes on in it by as much as was
// drawn of it.
class Tasks : public Source {
 public:
  Tasks(const ShardFolder& folder, const LoaderOptions& o)
      : Source(o, static_cast<std::uint64_t>(folder.index().samples)),
        mix_(probabilities(folder, o), o.seed) {}

 protected:
  void add_streams(const ShardFolder& folder,
                   const std::function<SampleStream::Share(int task)>& share) {
    for (const auto& part : folder.parts()) {
      const std::size_t task = streams_.size();
      streams_.push_back(std::make_unique<SampleStream>(
          part, order_options(options_, task), share(static_cast<int>(task))));
    }
  }
  SampleStream& stream(std::int32_t task) {
    return *streams_[static_cast<std::size_t>(task)];
  }

  TaskMix mix_;

 private:
  static std::vector<double> probabilities(const ShardFolder& folder,
                                           const LoaderOptions& o) {
    std::vector<std::int64_t> samples;
    for (const auto& part : folder.parts()) {
      samples.push_back(part->index().samples);
    }
    return task_probabilities(samples, o.mixing);
  }

  std::vector<std::unique_ptr<SampleStream>> streams_;
};

// The samples of a batch are drawn one by one.
class MixedBatches final : public Tasks {
 public:
  MixedBatches(const ShardFolder& folder, const LoaderOptions& o)
      : Tasks(folder, o) {
    add_streams(folder, [this](int task) {
      return [this, task](std::uint64_t first, std::int64_t count) {
        return share(task, first, count);
      };
    });
  }

 private:
  void begin(std::uint64_t, std::uint64_t first_position) override {
    first_ = first_position;
  }
  const Sample& sample(std::uint64_t in_batch) override {
    const TaskMix::Draw draw = mix_.at(first_ + in_batch);
    return stream(draw.task).at(draw.count);
  }

  // Which of a task's draws fall into this rank's slices.
  std::vector<bool> share(int task, std::uint64_t first,
                          std::int64_t count) const {
    std::vector<bool> out;
    out.reserve(static_cast<std::size_t>(count));
    const auto places = static_cast<std::uint64_t>(mix_.places(task));
    for (std::uint64_t b = first / places;
         out.size() < static_cast<std::size_t>(count); ++b) {
      std::uint64_t draw = b * TaskMix::kBlock, made = b * places;
      for (const std::int32_t t : mix_.block(b)) {
        if (t == task && made++ >= first &&
            out.size() < static_cast<std::size_t>(count)) {
          out.push_back(takes(options_, draw));
        }
        ++draw;
      }
    }
    return out;
  }

  std::uint64_t first_ = 0;
};

// All batches of a step are of one task.
class OneTaskSteps final : public Tasks {
 public:
  OneTaskSteps(const ShardFolder& folder, const LoaderOptions& o)
      : Tasks(folder, o) {
    add_streams(folder, [this](int) { return slices(options_); });
  }

 private:
  void begin(std::uint64_t step, std::uint64_t) override {
    const auto per_step = static_cast<std::uint64_t>(options_.batches_per_step);
    draw_ = mix_.at(step / per_step);
    const std::uint64_t batch = draw_.count * per_step + step % per_step;
    first_ = batch * static_cast<std::uint64_t>(options_.ranks) *
             static_cast<std::uint64_t>(options_.batch_size);
  }
  const Sample& sample(std::uint64_t in_batch) override {
    return stream(draw_.task).at(first_ + in_batch);
  }

  TaskMix::Draw draw_{};
  std::uint64_t first_ = 0;
};

}  // namespace

std::unique_ptr<BatchSource> make_batch_source(
    std::shared_ptr<const ShardFolder> folder, const LoaderOptions& options) {
  if (folder->parts().empty()) {
    return std::make_unique<OneFolder>(std::move(folder), options);
  }
  if (options.mixing.one_task) {
    return std::make_unique<OneTaskSteps>(*folder, options);
  }
  return std::make_unique<MixedBatches>(*folder, options);
}

}  // namespace thinwire
