#include "peft/fisher.h"

#include <ATen/ops/zeros.h>

#include <algorithm>
#include <bit>
#include <cmath>

#include "base/clones.h"
#include "base/error.h"

namespace thinwire {
namespace {

// The frozen weights themselves become leaves for as long as scores are taken:
// no copy of the backbone is made.
class RequireGrad {
 public:
  RequireGrad(const Parameters& parameters, std::span<const int> slots) {
    for (const int slot : slots) {
      THINWIRE_ASSERT(!parameters.trains(slot),
                      "'{}' trains while it is scored",
                      parameters.slot(slot).name);
      tensors_.push_back(parameters.slot(slot).frozen);
    }
    for (at::Tensor& t : tensors_) t.requires_grad_(true);
  }
  ~RequireGrad() {
    for (at::Tensor& t : tensors_) {
      t.mutable_grad().reset();
      t.requires_grad_(false);
    }
  }
  RequireGrad(const RequireGrad&) = delete;
  RequireGrad& operator=(const RequireGrad&) = delete;

  std::vector<at::Tensor>& tensors() { return tensors_; }

 private:
  std::vector<at::Tensor> tensors_;
};

// Bits of all numbers but their signs, together: 0 when every one is +-0.
THINWIRE_CLONE_BODY std::uint32_t any_bits_body(const float* x,
                                                std::int64_t n) {
  std::uint32_t bits = 0;
  for (std::int64_t i = 0; i < n; ++i) {
    bits |= std::bit_cast<std::uint32_t>(x[i]);
  }
  return bits & 0x7fffffffu;
}
constexpr Clones<&any_bits_body> any_bits;

THINWIRE_CLONE_BODY void add_block_body(float* scores, const float* grads,
                                        std::int64_t n, float weight) {
  for (std::int64_t i = 0; i < n; ++i) {
    scores[i] += weight * (grads[i] * grads[i]);
  }
}
constexpr Clones<&add_block_body> add_block;

}  // namespace

void add_squares(float* scores, const float* grads, std::int64_t n,
                 float weight) {
  constexpr std::int64_t kBlock = 1024;
  for (std::int64_t i = 0; i < n; i += kBlock) {
    const std::int64_t m = std::min(kBlock, n - i);
    if (any_bits(grads + i, m) == 0) continue;
    add_block(scores + i, grads + i, m, weight);
  }
}

std::int64_t exact_share(double density, std::int64_t n) {
  constexpr std::int64_t kUnit = 1'000'000'000;
  const auto units = static_cast<__int128>(std::llround(density * kUnit));
  return static_cast<std::int64_t>(units * n / kUnit);
}

std::vector<at::Tensor> fisher_scores(const Backbone& backbone,
                                      std::span<const int> slots,
                                      Scoring& scoring, std::int64_t samples,
                                      Scoring::Labels labels) {
  std::vector<at::Tensor> scores;
  for (const int slot : slots) {
    scores.push_back(at::zeros(backbone.parameters().slot(slot).frozen.sizes(),
                               at::TensorOptions().dtype(at::kFloat)));
  }
  {
    RequireGrad leaves(backbone.parameters(), slots);
    scoring.for_each_example(samples, labels, [&](double weight) {
      for (std::size_t i = 0; i < scores.size(); ++i) {
        at::Tensor& grad = leaves.tensors()[i].mutable_grad();
        if (!grad.defined()) continue;  // the loss does not reach it
        const at::Tensor g = grad.contiguous().to(at::kFloat);
        add_squares(scores[i].mutable_data_ptr<float>(),
                    g.const_data_ptr<float>(), g.numel(),
                    static_cast<float>(weight));
        grad.reset();
      }
    });
  }
  scoring.sum_over_ranks(scores);
  return scores;
}

}  // namespace thinwire
