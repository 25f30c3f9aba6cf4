#define TORCH_ASSERT_ONLY_METHOD_OPERATORS
#include "tasks/decode.h"

#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty.h>

#include <algorithm>

#include "base/error.h"
#include "ops/reference.h"

namespace thinwire {
namespace {

// The decoder's side of one pass: every sequence has the tokens so far.
TokenStream stream_of(const std::vector<std::vector<std::int64_t>>& tokens,
                      const std::vector<std::uint64_t>& samples) {
  const auto length = static_cast<std::int64_t>(tokens.front().size());
  TokenStream out;
  out.layout =
      make_layout(std::vector<std::int64_t>(tokens.size(), length), samples);
  out.tokens =
      at::empty({out.layout.rows()}, at::TensorOptions().dtype(at::kLong));
  auto* to = out.tokens.mutable_data_ptr<std::int64_t>();
  for (const auto& sequence : tokens) {
    to = std::copy(sequence.begin(), sequence.end(), to);
  }
  return out;
}

// int64 [B]: the row of each sequence's last token.
at::Tensor last_rows(const BackboneOutput& out, std::int64_t length) {
  at::Tensor rows =
      at::empty({out.layout.batch()}, at::TensorOptions().dtype(at::kLong));
  auto* to = rows.mutable_data_ptr<std::int64_t>();
  const std::int64_t* moved =
      out.token_rows.defined() ? out.token_rows.const_data_ptr<std::int64_t>()
                               : nullptr;
  for (std::int64_t b = 0; b < rows.numel(); ++b) {
    const std::int64_t last = (b + 1) * length - 1;
    to[b] = moved == nullptr ? last : moved[last];
  }
  return rows;
}

// One row per sequence, at the position of its last token.
Layout last_layout(const BackboneInput& in, std::int64_t length) {
  const std::size_t batch = in.sample_ids.size();
  return make_layout(std::vector<std::int64_t>(batch, 1), in.sample_ids,
                     std::vector<std::int64_t>(batch, length - 1));
}

}  // namespace

std::vector<std::vector<std::int32_t>> greedy_decode(
    Backbone& backbone, const BackboneInput& in, const ForwardContext& outer,
    std::int64_t max_new_tokens) {
  const at::NoGradGuard no_grad;
  const ModelConfig& config = backbone.config();
  const std::size_t batch = in.sample_ids.size();
  THINWIRE_ASSERT(in.encoder.layout.batch() == static_cast<std::int64_t>(batch),
                  "{} sequences, {} sample ids", in.encoder.layout.batch(),
                  batch);
  const BackboneOutput memory = backbone.encode(in, outer);
  std::vector<std::vector<std::int64_t>> tokens(batch,
                                                {config.decoder_start_id});
  std::vector<std::vector<std::int32_t>> out(batch);
  std::vector<bool> done(batch);
  std::size_t running = batch;
  BackboneInput step = in;
  for (std::int64_t length = 1; running > 0 && length <= max_new_tokens;
       ++length) {
    step.decoder = stream_of(tokens, in.sample_ids);
    const BackboneOutput decoded = backbone.decode(memory, step, outer);
    const Layout rows = last_layout(in, length);
    ForwardContext ctx = outer;
    ctx.layout = &rows;
    const at::Tensor best =
        backbone
            .lm_logits(
                decoded.hidden.index_select(
                    0, beside(last_rows(decoded, length), decoded.hidden)),
                ctx)
            .argmax(1)
            .cpu();
    const auto* next = best.const_data_ptr<std::int64_t>();
    for (std::size_t b = 0; b < batch; ++b) {
      // A sequence that has ended goes on, unread, until all have.
      tokens[b].push_back(next[b]);
      if (done[b]) continue;
      if (next[b] == config.eos_id) {
        done[b] = true;
        --running;
      } else {
        out[b].push_back(static_cast<std::int32_t>(next[b]));
      }
    }
  }
  return out;
}

}  // namespace thinwire
