#define TORCH_ASSERT_ONLY_METHOD_OPERATORS
#include "tasks/token_task.h"

#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty.h>

#include <algorithm>

#include "base/random.h"
#include "ops/loss.h"
#include "ops/reference.h"
#include "tasks/collate.h"

namespace thinwire {
namespace {

ForwardContext of_tokens(const TokenStream& stream, ForwardContext ctx) {
  ctx.layout = &stream.layout;
  return ctx;
}

}  // namespace

LossTerms TokenTask::loss(Backbone& backbone, const BackboneInput& in,
                          const ForwardContext& ctx) {
  return {backbone.lm_loss(backbone.forward(in, ctx).token_states(), in.labels,
                           of_tokens(stream(in), ctx),
                           ctx.training ? label_smoothing_ : 0),
          in.labels.ne(kIgnoredLabel).sum().item<double>()};
}

at::Tensor TokenTask::logits(Backbone& backbone, const BackboneInput& in,
                             const ForwardContext& ctx) {
  return backbone.lm_logits(backbone.forward(in, ctx).token_states(),
                            of_tokens(stream(in), ctx));
}

std::vector<Task::Outcome> TokenTask::outcomes(Backbone& backbone,
                                               const BackboneInput& in,
                                               const ForwardContext& ctx) {
  const at::NoGradGuard no_grad;
  const at::Tensor below = logits(backbone, in, ctx)
                               .to(at::kDouble)
                               .softmax(1)
                               .cumsum(1)
                               .contiguous()
                               .cpu();
  const std::int64_t vocabulary = below.size(1);
  at::Tensor drawn = at::empty({below.size(0)}, in.labels.options());
  const auto* given = in.labels.const_data_ptr<std::int64_t>();
  auto* out = drawn.mutable_data_ptr<std::int64_t>();
  const PhiloxKey key = make_key(ctx.seed, Purpose::kScore, ctx.step);
  const auto& offsets = stream(in).layout.offsets;
  const auto* samples =
      stream(in).layout.samples.const_data_ptr<std::int64_t>();
  for (std::size_t b = 0; b + 1 < offsets.size(); ++b) {
    const auto sample = static_cast<std::uint64_t>(samples[offsets[b]]);
    for (std::int64_t t = offsets[b]; t < offsets[b + 1]; ++t) {
      out[t] = kIgnoredLabel;
      if (given[t] == kIgnoredLabel) continue;
      const double u =
          uniform01(philox(key, {static_cast<std::uint32_t>(t - offsets[b]), 0,
                                 static_cast<std::uint32_t>(sample),
                                 static_cast<std::uint32_t>(sample >> 32)})[0]);
      // The total is 1 up to rounding; the scale leaves none outside.
      const auto* row = below.const_data_ptr<double>() + t * vocabulary;
      const auto* end = row + vocabulary - 1;
      out[t] = std::upper_bound(row, end, u * *end) - row;
    }
  }
  return {{std::move(drawn), std::vector<double>(in.sample_ids.size(), 1)}};
}

std::vector<TokenTask::TokenScore> TokenTask::scores(
    Backbone& backbone, const BackboneInput& in, const ForwardContext& ctx) {
  const at::NoGradGuard no_grad;
  const TokenLosses tokens =
      backbone.lm_token_losses(backbone.forward(in, ctx).token_states(),
                               in.labels, of_tokens(stream(in), ctx));
  const auto loss = to_doubles(tokens.loss);
  const at::Tensor best = tokens.best.cpu();
  const auto* likeliest = best.const_data_ptr<std::int64_t>();
  const auto* label = in.labels.const_data_ptr<std::int64_t>();
  std::vector<TokenScore> out;
  const auto& offsets = stream(in).layout.offsets;
  for (std::size_t b = 0; b + 1 < offsets.size(); ++b) {
    TokenScore score;
    for (std::int64_t t = offsets[b]; t < offsets[b + 1]; ++t) {
      if (label[t] == kIgnoredLabel) continue;
      score.loss += loss[static_cast<std::size_t>(t)];
      score.likeliest += likeliest[t] == label[t];
      ++score.tokens;
    }
    out.push_back(score);
  }
  return out;
}

}  // namespace thinwire
