#define TORCH_ASSERT_ONLY_METHOD_OPERATORS
#include "models/scored_weight.h"

#include <ATen/core/grad_mode.h>
#include <ATen/ops/where.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <utility>

#include "base/error.h"
#include "ops/reference.h"
#include "ops/tap.h"

namespace thinwire {

ScoredPass::ScoredPass() : leaf(at::zeros({}, at::kFloat)) {
  leaf.requires_grad_(true);
}

ScoredWeight::ScoredWeight(at::Tensor squares,
                           std::shared_ptr<const ScoredPass> pass)
    : squares_(std::move(squares)), pass_(std::move(pass)) {
  THINWIRE_ASSERT(
      squares_.is_contiguous() && squares_.scalar_type() == at::kFloat,
      "squares are contiguous fp32, not {}",
      c10::toString(squares_.scalar_type()));
}

at::Tensor ScoredWeight::product(const at::Tensor& y, const at::Tensor& x,
                                 at::ScalarType type, const Layout& layout,
                                 WeightAxes axes) {
  if (!at::GradMode::is_enabled()) return y;
  ++uses_;
  return tap_gradient(y, pass_->leaf,
                      [self = shared_from_this(), x = x.detach(), type, axes,
                       offsets = layout.offsets](const at::Tensor& dy) {
                        WeightUse use{.x = x.to(type).to(at::kFloat),
                                      .rows = {},
                                      .dy = dy.contiguous(),
                                      .offsets = offsets};
                        // The gradient of W [in, out] is x^T dy.
                        if (axes == WeightAxes::kInOut)
                          std::swap(use.x, use.dy);
                        self->use(std::move(use));
                      });
}

at::Tensor ScoredWeight::look_up(const at::Tensor& y, const at::Tensor& rows,
                                 const Layout& layout, std::int64_t ignored) {
  if (!at::GradMode::is_enabled()) return y;
  ++uses_;
  const at::Tensor kept =
      ignored < 0 ? rows : rows.masked_fill(rows.eq(ignored), -1);
  return tap_gradient(y, pass_->leaf,
                      [self = shared_from_this(), kept,
                       offsets = layout.offsets](const at::Tensor& dy) {
                        self->use({.x = {},
                                   .rows = kept.contiguous(),
                                   .dy = dy.contiguous(),
                                   .offsets = offsets});
                      });
}

at::Tensor ScoredWeight::added(const at::Tensor& y, const Layout& layout) {
  return other(y, [offsets = layout.offsets](const at::Tensor& dy) {
    return sequence_sums(dy, offsets);
  });
}

at::Tensor ScoredWeight::scaled(const at::Tensor& y,
                                std::function<at::Tensor()> normal,
                                const Layout& layout) {
  return other(y, [normal = std::move(normal),
                   offsets = layout.offsets](const at::Tensor& dy) {
    return sequence_sums(normal().mul(dy), offsets);
  });
}

WatchedWeight::Sampled ScoredWeight::sampled(at::ScalarType type,
                                             const Layout& layout) {
  if (!at::GradMode::is_enabled()) return {};
  // Blocks are parts of one gradient, so finish() squares their sum.
  uses_ += 2;
  const auto add = [self = shared_from_this(), type, all = layout.offsets](
                       at::Tensor&, const LossRows& block) {
    std::vector<std::int64_t> offsets;
    for (const std::int64_t begin : all) {
      offsets.push_back(std::ranges::lower_bound(block.rows, begin) -
                        block.rows.begin());
    }
    self->use({.x = block.x.to(type).to(at::kFloat),
               .rows = {},
               .dy = block.dy,
               .offsets = std::move(offsets)});
  };
  return {pass_->leaf, add, /*late=*/true};
}

at::Tensor ScoredWeight::other(
    const at::Tensor& y,
    std::function<at::Tensor(const at::Tensor& dy)> gradient) {
  return tap_gradient(
      y, pass_->leaf,
      [self = shared_from_this(),
       gradient = std::move(gradient)](const at::Tensor& dy) {
        const at::Tensor sums = gradient(dy);
        self->sums_ = self->sums_.defined() ? self->sums_.add(sums) : sums;
      });
}

void ScoredWeight::use(WeightUse use) {
  // The only one need not be kept.
  if (uses_ == 1)
    return add_squared_gradients(squares_, {&use, 1}, pass_->weights);
  kept_.push_back(std::move(use));
}

void ScoredWeight::finish() {
  if (!kept_.empty()) add_squared_gradients(squares_, kept_, pass_->weights);
  kept_.clear();
  uses_ = 0;
  if (!sums_.defined()) return;
  const std::int64_t n = squares_.numel();
  const at::Tensor sums = sums_.contiguous();
  THINWIRE_ASSERT(
      sums.numel() == n * static_cast<std::int64_t>(pass_->weights.size()),
      "{} sums of {} numbers, {} weights", sums.numel(), n,
      pass_->weights.size());
  if (plain_twin(sums)) {
    const at::Tensor each =
        sums.view({static_cast<std::int64_t>(pass_->weights.size()), n});
    for (std::size_t b = 0; b < pass_->weights.size(); ++b) {
      const at::Tensor own = each.select(0, static_cast<std::int64_t>(b));
      squares_.view({n}).addcmul_(own, own, pass_->weights[b]);
    }
    sums_.reset();
    return;
  }
  const auto* sum = sums.const_data_ptr<float>();
  for (const float weight : pass_->weights) {
    add_squares(squares_.mutable_data_ptr<float>(), sum, n, weight);
    sum += n;
  }
  sums_.reset();
}

}  // namespace thinwire
