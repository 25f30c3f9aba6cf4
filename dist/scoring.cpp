// What methods ask of the run while they decide what trains: gradients of
// single examples, dealt over the ranks.
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>

#include <algorithm>
#include <cstring>
#include <functional>
#include <utility>

#include "base/error.h"
#include "base/random.h"
#include "comm/communicator.h"
#include "dist/declare.h"
#include "dist/together.h"

namespace thinwire {
namespace {

// Numbers summed in one exchange: bounds the staging memory (16 MB).
constexpr std::int64_t kSlice = 4 << 20;

class RunScoring : public Scoring {
 public:
  RunScoring(Communicator& comm, Backbone& backbone, Task& task,
             std::shared_ptr<const ShardFolder> train, std::uint64_t data_seed,
             TrainObserver* observer, bool alone)
      : comm_(comm),
        parts_(alone ? 1 : comm.size()),
        part_(alone ? 0 : comm.rank()),
        backbone_(backbone),
        task_(task),
        train_(std::move(train)),
        data_seed_(data_seed),
        observer_(observer) {}

  void for_each_example(std::int64_t samples, Labels labels,
                        const std::function<void(double)>& visit) override {
    const std::int64_t all = train_->index().samples;
    if (samples > all && observer_ != nullptr) {
      observer_->warn(
          fmt::format("scoring: {} examples asked for, {} has {}; taking all",
                      samples, train_->path(), all));
    }
    const std::int64_t n = std::min(samples, all);
    const auto key = make_key(data_seed_, Purpose::kScore);
    const std::int64_t mine = n / parts_ + 1;
    const Patience patience(comm_, static_cast<double>(mine));
    together(comm_, [&] {
      for (std::int64_t i = part_; i < n; i += parts_) {
        const auto at = permute_index(static_cast<std::uint64_t>(i),
                                      static_cast<std::uint64_t>(all), key);
        example(static_cast<std::int64_t>(at), labels, visit);
        progress("score", std::min(n, i + parts_), n);
      }
      return true;
    });
  }

  void sum_over_ranks(std::span<at::Tensor> tensors) override {
    if (parts_ == 1) return;
    std::int64_t total = 0;
    for (const at::Tensor& t : tensors) {
      THINWIRE_ASSERT(t.scalar_type() == at::kFloat && t.is_contiguous(),
                      "sum_over_ranks takes contiguous fp32 tensors");
      total += t.numel();
    }
    at::Tensor stage = at::empty({std::min(total, kSlice)}, at::kFloat);
    std::size_t out = 0, back = 0;  // tensor and place to read, to write
    std::int64_t out_at = 0, back_at = 0;
    for (std::int64_t done = 0; done < total;) {
      const std::int64_t n = std::min(kSlice, total - done);
      at::Tensor slice = stage.narrow(0, 0, n);
      float* data = slice.mutable_data_ptr<float>();
      walk(tensors, out, out_at, n,
           [&](float* tensor, std::int64_t at, std::int64_t count) {
             std::copy_n(tensor, count, data + at);
           });
      comm_.all_reduce(slice, ReduceOp::kSum, {.tag = "scores"});
      walk(tensors, back, back_at, n,
           [&](float* tensor, std::int64_t at, std::int64_t count) {
             std::copy_n(data + at, count, tensor);
           });
      done += n;
    }
  }

  void progress(std::string_view what, std::int64_t done,
                std::int64_t of) override {
    if (observer_ != nullptr && comm_.rank() == 0) {
      observer_->progress(what, done, of);
    }
  }

 private:
  // Hands the next n numbers of the tensors, laid end to end, to use(data,
  // place in the slice, count), piece by piece.
  template <class Use>
  static void walk(std::span<at::Tensor> tensors, std::size_t& tensor,
                   std::int64_t& place, std::int64_t n, const Use& use) {
    for (std::int64_t at = 0; at < n;) {
      const std::int64_t left = tensors[tensor].numel() - place;
      const std::int64_t count = std::min(left, n - at);
      if (count > 0) {
        use(tensors[tensor].mutable_data_ptr<float>() + place, at, count);
      }
      at += count;
      place += count;
      if (place == tensors[tensor].numel()) {
        ++tensor;
        place = 0;
      }
    }
  }

  void example(std::int64_t at, Labels labels,
               const std::function<void(double)>& visit) {
    const std::vector<Sample> sample = train_->read(at, 1);
    BackboneInput in = task_.collate(sample, backbone_.config());
    ForwardContext ctx;
    ctx.seed = data_seed_;
    ctx.tasks = in.tasks;
    const auto run = [&](double weight) {
      const LossTerms terms = task_.loss(backbone_, in, ctx);
      if (terms.sum.requires_grad()) terms.sum.backward();
      visit(weight);
    };
    if (labels == Labels::kData) {
      run(1);
      return;
    }
    for (Task::Outcome& outcome : task_.outcomes(backbone_, in, ctx)) {
      in.labels = std::move(outcome.labels);
      run(outcome.probability);
    }
  }

  Communicator& comm_;
  const int parts_, part_;  // of the examples
  Backbone& backbone_;
  Task& task_;
  std::shared_ptr<const ShardFolder> train_;
  std::uint64_t data_seed_;
  TrainObserver* observer_;
};

}  // namespace

std::unique_ptr<Scoring> make_scoring(Communicator& comm, Backbone& backbone,
                                      Task& task,
                                      std::shared_ptr<const ShardFolder> train,
                                      std::uint64_t data_seed,
                                      TrainObserver* observer, bool alone) {
  return std::make_unique<RunScoring>(comm, backbone, task, std::move(train),
                                      data_seed, observer, alone);
}

}  // namespace thinwire
