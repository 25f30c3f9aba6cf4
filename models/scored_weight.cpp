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

ScoredPass::ScoredPass(bool squared)
    : squared(squared), leaf(at::zeros({}, at::kFloat)) {
  leaf.requires_grad_(true);
}

ScoredWeight::ScoredWeight(at::Tensor sums,
                           std::shared_ptr<const ScoredPass> pass)
    : sums_(std::move(sums)), pass_(std::move(pass)) {
  THINWIRE_ASSERT(sums_.is_contiguous() && sums_.scalar_type() == at::kFloat,
                  "sums are contiguous fp32, not {}",
                  c10::toString(sums_.scalar_type()));
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
  // Blocks are parts of one gradient: finish() squares their sum.
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
  return tap_gradient(y, pass_->leaf,
                      [self = shared_from_this(),
                       gradient = std::move(gradient)](const at::Tensor& dy) {
                        const at::Tensor each = gradient(dy);
                        at::Tensor& others = self->others_;
                        others = others.defined() ? others.add(each) : each;
                      });
}

void ScoredWeight::use(WeightUse use) {
  if (!pass_->squared) return add_gradients(sums_, {&use, 1});
  // The only one need not be kept.
  if (uses_ == 1)
    return add_squared_gradients(sums_, {&use, 1}, pass_->weights);
  kept_.push_back(std::move(use));
}

void ScoredWeight::finish() {
  if (!kept_.empty()) add_squared_gradients(sums_, kept_, pass_->weights);
  kept_.clear();
  uses_ = 0;
  if (!others_.defined()) return;
  const auto batch = static_cast<std::int64_t>(pass_->weights.size());
  THINWIRE_ASSERT(others_.numel() == batch * sums_.numel(),
                  "{} gradients of {} numbers, {} weights", others_.numel(),
                  sums_.numel(), batch);
  add(others_.contiguous().view({batch, sums_.numel()}));
  others_.reset();
}

void ScoredWeight::add(const at::Tensor& each) {
  const std::int64_t n = sums_.numel();
  at::Tensor sums = sums_.view({n});
  if (!pass_->squared) {
    sums.add_(each.sum(0));
    return;
  }
  if (plain_twin(each)) {
    for (std::size_t b = 0; b < pass_->weights.size(); ++b) {
      const at::Tensor own = each.select(0, static_cast<std::int64_t>(b));
      sums.addcmul_(own, own, pass_->weights[b]);
    }
    return;
  }
  const auto* own = each.const_data_ptr<float>();
  for (const float weight : pass_->weights) {
    add_squares(sums.mutable_data_ptr<float>(), own, n, weight);
    own += n;
  }
}

}  // namespace thinwire
