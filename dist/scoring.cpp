// What methods ask of the run while they decide what trains: batches of
// examples, dealt over the ranks.
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
// What a batch of several examples keeps for backward: this part of weights and
// scores together, or 16 MB.
constexpr std::int64_t kShare = 12, kRoom = 4 << 20;

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
        observer_(observer),
        room_(std::max(kRoom, backbone.parameters().count() * 2 / kShare)) {}

  void for_each_batch(std::int64_t samples, Labels labels,
                      const Visit& visit) override {
    for_each(samples, room_, labels, visit);
  }
  void for_each_example(std::int64_t samples, Labels labels,
                        const Visit& visit) override {
    for_each(samples, /*room=*/0, labels, visit);
  }
  Backbone& backbone() override { return backbone_; }

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
  // A batch holds numbers for backward that have room, but one example at
  // least.
  void for_each(std::int64_t samples, std::int64_t room, Labels labels,
                const Visit& visit) {
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
      std::vector<Sample> batch;
      std::int64_t numbers = 0;
      for (std::int64_t i = part_; i < n; i += parts_) {
        const auto at = permute_index(static_cast<std::uint64_t>(i),
                                      static_cast<std::uint64_t>(all), key);
        Sample sample = train_->read(static_cast<std::int64_t>(at), 1).at(0);
        const std::int64_t more = kept_numbers(sample);
        if (!batch.empty() && numbers + more > room) {
          run(std::exchange(batch, {}), labels, visit);
          progress("score", std::min(n, i), n);
          numbers = 0;
        }
        numbers += more;
        batch.push_back(std::move(sample));
      }
      if (!batch.empty()) run(batch, labels, visit);
      progress("score", n, n);
      return true;
    });
  }

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

  // Numbers that backward needs of a sample, roughly: per row and layer the
  // ends of both or three sublayers, what attention (one number a head beside
  // its inputs) and the feed-forward keep; the logits' gradient.
  std::int64_t kept_numbers(const Sample& sample) const {
    const ModelConfig& c = backbone_.config();
    const auto rows = std::ssize(sample.input), out = std::ssize(sample.target);
    const auto kept = [&](std::int64_t d_ff, std::int64_t heads) {
      return 7 * c.d_model + d_ff + heads;
    };
    const std::int64_t encoder = rows * c.layers * kept(c.d_ff, c.heads);
    const std::int64_t cross = c.decoder_layers * 2 * c.d_model * rows;
    if (c.decoder_only) {
      return (rows + out) * (c.layers * kept(c.d_ff, c.heads) + c.vocab_size);
    }
    if (c.decoder_layers == 0) return encoder;
    return encoder + cross +
           out * (c.vocab_size +
                  c.decoder_layers * (kept(c.decoder_d_ff, c.decoder_heads) +
                                      4 * c.d_model + c.decoder_heads));
  }

  void run(std::span<const Sample> samples, Labels labels, const Visit& visit) {
    BackboneInput in = task_.collate(samples, backbone_.config());
    ForwardContext ctx;
    ctx.seed = data_seed_;
    ctx.tasks = in.tasks;
    const auto pass = [&](std::span<const double> weights) {
      const LossTerms terms = task_.loss(backbone_, in, ctx);
      visit(weights, [&] {
        if (terms.sum.requires_grad()) terms.sum.backward();
      });
    };
    if (labels == Labels::kData) {
      return pass(std::vector<double>(samples.size(), 1));
    }
    for (Task::Outcome& outcome : task_.outcomes(backbone_, in, ctx)) {
      in.labels = std::move(outcome.labels);
      pass(outcome.probabilities);
    }
  }

  Communicator& comm_;
  const int parts_, part_;  // of the examples
  Backbone& backbone_;
  Task& task_;
  std::shared_ptr<const ShardFolder> train_;
  std::uint64_t data_seed_;
  TrainObserver* observer_;
  const std::int64_t room_;  // numbers that a batch of several may keep
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
