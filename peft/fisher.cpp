#include "peft/fisher.h"

#include <memory>

#include "models/scored_weight.h"
#include "peft/mask_selection.h"

namespace thinwire {
namespace {

// The slots are scored for as long as this lives.
class Scored {
 public:
  Scored(const Parameters& parameters, std::span<const int> slots,
         std::span<const at::Tensor> sums, bool squared)
      : parameters_(parameters),
        slots_(slots),
        pass_(std::make_shared<ScoredPass>(squared)) {
    for (std::size_t i = 0; i < slots.size(); ++i) {
      weights_.push_back(std::make_shared<ScoredWeight>(sums[i], pass_));
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
  std::shared_ptr<ScoredPass> pass_;
  std::vector<std::shared_ptr<ScoredWeight>> weights_;
};

// by_slot(), in the weights' shapes.
std::vector<at::Tensor> in_shape(const at::Tensor& numbers,
                                 const Backbone& backbone,
                                 std::span<const int> slots) {
  auto out = by_slot(numbers, backbone, slots);
  for (std::size_t i = 0; i < slots.size(); ++i) {
    out[i] = out[i].view(backbone.parameters().slot(slots[i]).frozen.sizes());
  }
  return out;
}

std::vector<at::Tensor> sum_gradients(const Backbone& backbone,
                                      std::span<const int> slots,
                                      Scoring& scoring, std::int64_t samples,
                                      Scoring::Labels labels, bool squared) {
  const Parameters& p = backbone.parameters();
  at::Tensor sums = empty_numbers(backbone, slots, p.device()).zero_();
  {
    Scored scored(p, slots, in_shape(sums, backbone, slots), squared);
    scoring.for_each_batch(samples, labels,
                           [&](std::span<const double> weights,
                               const std::function<void()>& backward) {
                             scored.pass(weights, backward);
                           });
  }
  sums = sums.cpu();
  scoring.sum_over_ranks({&sums, 1});
  return in_shape(sums, backbone, slots);
}

}  // namespace

std::vector<at::Tensor> fisher_scores(const Backbone& backbone,
                                      std::span<const int> slots,
                                      Scoring& scoring, std::int64_t samples,
                                      Scoring::Labels labels) {
  return sum_gradients(backbone, slots, scoring, samples, labels,
                       /*squared=*/true);
}

std::vector<at::Tensor> summed_gradients(const Backbone& backbone,
                                         std::span<const int> slots,
                                         Scoring& scoring,
                                         std::int64_t samples) {
  return sum_gradients(backbone, slots, scoring, samples,
                       Scoring::Labels::kData, /*squared=*/false);
}

}  // namespace thinwire
