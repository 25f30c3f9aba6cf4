#include "launch/estimate/foreseen_delta.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstdint>
#include <memory>
#include <optional>
#include <utility>

#include "comm/communicator.h"
#include "dist/declare.h"

namespace thinwire {
namespace {

// Examples that are enough to tell which tensors a mask leaves alone.
constexpr std::int64_t kExamples = 16;

struct NothingScored {};

// The run's own examples in their order, a few of them.
class FewExamples : public Scoring {
 public:
  FewExamples(OpenRun& run, double budget)
      : comm_(make_communicator("self")),
        all_(run.train == nullptr ? 0 : run.train->index().samples) {
    if (run.train == nullptr) return;
    const ShardIndex& index = run.train->index();
    const double example =
        6 * static_cast<double>(run.backbone->parameters().count()) *
        static_cast<double>(index.max_input + index.max_target);
    most_ = std::min(kExamples, static_cast<std::int64_t>(budget / example));
    scoring_ = make_scoring(*comm_, *run.backbone, *run.task, run.train,
                            run.config.train.data_seed, /*observer=*/nullptr);
  }

  // The model's own labels would take a pass for each.
  void for_each_batch(std::int64_t samples, Labels,
                      const Visit& visit) override {
    const std::int64_t few = few_of(samples);  // or there is no scoring
    scoring_->for_each_batch(few, Labels::kData, visit);
  }
  void for_each_example(std::int64_t samples, Labels,
                        const Visit& visit) override {
    const std::int64_t few = few_of(samples);  // or there is no scoring
    scoring_->for_each_example(few, Labels::kData, visit);
  }
  Backbone& backbone() override {
    if (most_ == 0) throw NothingScored();
    return scoring_->backbone();
  }
  void sum_over_ranks(std::span<at::Tensor>) override {}
  void progress(std::string_view, std::int64_t, std::int64_t) override {}

  std::string masks() const {
    if (asked_ == 0) return "";
    return fmt::format("as {} of {} examples score them",
                       std::min(asked_, most_), asked_);
  }

 private:
  std::int64_t few_of(std::int64_t samples) {
    if (most_ == 0) throw NothingScored();
    asked_ = std::min(samples, all_);
    return std::min(samples, most_);
  }

  std::unique_ptr<Communicator> comm_;
  std::int64_t all_, most_ = 0, asked_ = 0;
  std::unique_ptr<Scoring> scoring_;
};

Delta declare(OpenRun& run, Scoring* scoring) {
  return declare_delta(
      *run.backbone, run.methods,
      {.seed = run.config.train.seed, .step = 0, .scoring = scoring});
}

}  // namespace

ForeseenDelta foresee_delta(OpenRun& run, const std::string& folder,
                            double budget) {
  const auto masked = [](const Delta& delta) {
    return std::ranges::any_of(delta.entries(), [](const DeltaEntry& e) {
      return e.kind == EntryKind::kMasked;
    });
  };
  Delta declared = declare(run, nullptr);
  if (!folder.empty() && holds_delta(folder)) {
    Delta saved = load_saved_delta(run, folder);
    if (saved.method_configs() == declared.method_configs() &&
        saved.trainable() >= declared.trainable()) {
      std::string masks = masked(saved) ? "as in the run" : "";
      return {std::move(saved), std::move(masks)};
    }
  }
  // Scores that choose initial values alone change no cost.
  if (!masked(declared)) return {std::move(declared), ""};
  FewExamples examples(run, budget);
  try {
    Delta scored = declare(run, &examples);
    return {std::move(scored), examples.masks()};
  } catch (const NothingScored&) {
    return {std::move(declared), "spread evenly, as nothing was scored"};
  }
}

}  // namespace thinwire
