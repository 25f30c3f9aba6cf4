#include "peft/fisher.h"

#include <ATen/ops/zeros.h>

#include <memory>

#include "models/scored_weight.h"

namespace thinwire {
namespace {

// The slots are scored for as long as this lives.
class Scored {
 public:
  Scored(const Parameters& parameters, std::span<const int> slots,
         std::span<const at::Tensor> squares)
      : parameters_(parameters), slots_(slots) {
    for (std::size_t i = 0; i < slots.size(); ++i) {
      weights_.push_back(std::make_shared<ScoredWeight>(squares[i], pass_));
      parameters_.set_scored(slots[i], weights_.back());
    }
  }
  ~Scored() {
    for (const int slot : slots_) parameters_.set_scored(slot, nullptr);
  }
  Scored(const Scored&) = delete;
  Scored& operator=(const Scored&) = delete;

  void pass(std::span<const double> weights,
            const std::function<void()>& backward) {
    pass_->weights.assign(weights.begin(), weights.end());
    backward();
    for (const auto& weight : weights_) weight->finish();
  }

 private:
  const Parameters& parameters_;
  std::span<const int> slots_;
  std::shared_ptr<ScoredPass> pass_ = std::make_shared<ScoredPass>();
  std::vector<std::shared_ptr<ScoredWeight>> weights_;
};

}  // namespace

std::vector<at::Tensor> fisher_scores(const Backbone& backbone,
                                      std::span<const int> slots,
                                      Scoring& scoring, std::int64_t samples,
                                      Scoring::Labels labels) {
  std::vector<at::Tensor> scores;
  for (const int slot : slots) {
    const at::Tensor& weight = backbone.parameters().slot(slot).frozen;
    scores.push_back(
        at::zeros(weight.sizes(), weight.options().dtype(at::kFloat)));
  }
  {
    Scored scored(backbone.parameters(), slots, scores);
    scoring.for_each_batch(samples, labels,
                           [&](std::span<const double> weights,
                               const std::function<void()>& backward) {
                             scored.pass(weights, backward);
                           });
  }
  for (at::Tensor& score : scores) score = score.cpu();
  scoring.sum_over_ranks(scores);
  return scores;
}

}  // namespace thinwire
