// The language-model head of those backbones that have one.
#define TORCH_ASSERT_ONLY_METHOD_OPERATORS
#include <ATen/core/grad_mode.h>

#include "base/error.h"
#include "models/backbone.h"
#include "ops/linear_cross_entropy.h"
#include "ops/loss.h"
#include "ops/reference.h"

namespace thinwire {

const Site& Backbone::lm_head_site() const {
  if (lm_head_ < 0) {
    fail<UsageError>(
        "{} has no language-model head here (use a bart, gpt2 or t5 model)",
        config_.architecture);
  }
  return sites_[static_cast<std::size_t>(lm_head_)];
}

at::Tensor Backbone::lm_bias(const ForwardContext& ctx) {
  if (lm_bias_ < 0) return {};
  const at::Tensor bias = parameters_.get(lm_bias_, ctx).to(at::kFloat);
  if (!lm_bias_adds_) lm_bias_adds_ = bias.any().item<bool>();
  return *lm_bias_adds_ ? bias : at::Tensor();
}

at::Tensor Backbone::lm_logits(const at::Tensor& hidden,
                               const ForwardContext& ctx) {
  lm_head_site();
  const at::Tensor y =
      linear(lm_head_, lm_scale_ == 1 ? hidden : hidden.mul(lm_scale_), ctx);
  const at::Tensor bias = lm_bias(ctx);
  return bias.defined() ? y.add(bias) : y;
}

// Whatever acts on the logits themselves needs them.
bool Backbone::needs_logits(const at::Tensor& hidden,
                            const ForwardContext& ctx) {
  return lm_head_site().bias >= 0 || !at_site(lm_head_).linear.empty() ||
         lm_bias(ctx).defined() || plain_twin(hidden);
}

at::Tensor Backbone::lm_loss(const at::Tensor& hidden, const at::Tensor& labels,
                             const ForwardContext& ctx, double smoothing) {
  const Site& head = lm_head_site();
  const auto [weight, watch, scale, axes] = parameters_.use(head.weight, ctx);
  THINWIRE_ASSERT(!scale.defined(), "the output matrix is int8");
  if (needs_logits(hidden, ctx)) {
    return cross_entropy_sum(lm_logits(hidden, ctx), labels, smoothing);
  }
  WatchedWeight::Sampled sampled;
  if (watch != nullptr) {
    sampled = watch->sampled(weight.scalar_type(), *ctx.layout);
  }
  return linear_cross_entropy(hidden, weight, labels,
                              {.scale = lm_scale_,
                               .smoothing = smoothing,
                               .values = sampled.values,
                               .sampled = std::move(sampled.add),
                               .late = sampled.late});
}

TokenLosses Backbone::lm_token_losses(const at::Tensor& hidden,
                                      const at::Tensor& labels,
                                      const ForwardContext& ctx) {
  const at::NoGradGuard no_grad;
  const Site& head = lm_head_site();
  if (needs_logits(hidden, ctx)) {
    const at::Tensor logits = lm_logits(hidden, ctx);
    return {cross_entropy_rows(logits, labels), logits.argmax(1)};
  }
  return linear_cross_entropy_rows(hidden, parameters_.get(head.weight, ctx),
                                   labels, lm_scale_);
}

}  // namespace thinwire
