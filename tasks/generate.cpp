#define TORCH_ASSERT_ONLY_METHOD_OPERATORS
#include "tasks/generate.h"

#include <ATen/core/grad_mode.h>

#include <cmath>

#include "tasks/token_streams.h"

namespace thinwire {
namespace {

// log softmax(logits)[token].
double log_probability(std::span<const float> logits, std::int64_t token) {
  const double most = logits[static_cast<std::size_t>(likeliest(logits))];
  double sum = 0;
  for (const float x : logits) sum += std::exp(x - most);
  return logits[static_cast<std::size_t>(token)] - most - std::log(sum);
}

}  // namespace

std::vector<Generated> generate(Backbone& backbone, const BackboneInput& in,
                                const ForwardContext& ctx,
                                const Decoding& how) {
  if (how.num_beams > 1) return beam_search(backbone, in, ctx, how);
  const at::NoGradGuard no_grad;
  const std::int64_t eos = backbone.config().eos_id;
  std::vector<Generated> out(in.sample_ids.size());
  TokenStreams texts(backbone, in, ctx, how.max_new_tokens);
  while (!texts.streams().empty()) {
    const at::Tensor logits = texts.next_logits();
    const auto vocabulary = static_cast<std::size_t>(logits.size(1));
    auto* row = logits.mutable_data_ptr<float>();
    std::vector<std::int64_t> from, tokens;
    for (std::size_t s = 0; s < texts.streams().size(); ++s) {
      const TokenStreams::Stream& stream = texts.streams()[s];
      const std::span<float> next(row + s * vocabulary, vocabulary);
      forbid_tokens(next, stream.tokens, stream.written, backbone.config(),
                    how);
      const std::int64_t token =
          how.do_sample ? draw_token(next, in.sample_ids[stream.input],
                                     stream.written, how)
                        : likeliest(next);
      Generated& text = out[stream.input];
      text.score += log_probability(next, token);
      if (token == eos) continue;
      text.tokens.push_back(static_cast<std::int32_t>(token));
      if (stream.written + 1 == how.max_new_tokens) continue;
      from.push_back(static_cast<std::int64_t>(s));
      tokens.push_back(token);
    }
    texts.go_on(from, tokens);
  }
  return out;
}

}  // namespace thinwire
