#define TORCH_ASSERT_ONLY_METHOD_OPERATORS
#include "tasks/token_streams.h"

#include <ATen/ops/tensor.h>

#include "base/error.h"
#include "ops/reference.h"

namespace thinwire {
namespace {

bool has_encoder(const Backbone& backbone) {
  return backbone.config().decoder_layers > 0 && backbone.config().layers > 0;
}

}  // namespace

TokenStreams::TokenStreams(Backbone& backbone, const BackboneInput& in,
                           const ForwardContext& ctx, std::int64_t most)
    : backbone_(backbone),
      in_(in),
      ctx_(ctx),
      most_(most),
      cache_(in.encoder.layout.batch()) {
  const std::size_t batch = in.sample_ids.size();
  THINWIRE_ASSERT(in.encoder.layout.batch() == static_cast<std::int64_t>(batch),
                  "{} sequences, {} sample ids", in.encoder.layout.batch(),
                  batch);
  ctx_.training = false;
  const ModelConfig& config = backbone.config();
  if (has_encoder(backbone)) memory_ = backbone.encode(in, ctx_);
  const auto& offsets = in.encoder.layout.offsets;
  const auto* tokens = in.encoder.tokens.const_data_ptr<std::int64_t>();
  for (std::size_t b = 0; b < batch; ++b) {
    Stream stream{b, {config.generation_start_id}};
    if (!has_encoder(backbone)) {
      stream.tokens.assign(tokens + offsets[b], tokens + offsets[b + 1]);
    }
    streams_.push_back(std::move(stream));
  }
  ctx_.cache = &cache_;
}

void TokenStreams::check_room(const std::vector<std::int64_t>& last) const {
  const ModelConfig& config = backbone_.config();
  for (std::size_t s = 0; s < last.size() && config.max_positions > 0; ++s) {
    // The last new token is not read again.
    const std::int64_t taken = last[s] + 1;
    if (taken + most_ - 1 <= config.max_positions) continue;
    fail<UsageError>(
        "task.max_new_tokens: {} new tokens behind the {} of sample {} (what "
        "methods put in front included) are more than the {} positions of "
        "this {}",
        most_, taken, in_.sample_ids[streams_[s].input], config.max_positions,
        config.architecture);
  }
}

std::vector<std::uint64_t> TokenStreams::samples() const {
  std::vector<std::uint64_t> out;
  for (const Stream& s : streams_) out.push_back(in_.sample_ids[s.input]);
  return out;
}

at::Tensor TokenStreams::next_logits() {
  const bool first = cache_.empty();
  std::vector<std::int64_t> lengths, tokens, last;
  BackboneInput step;
  for (const Stream& s : streams_) {
    const auto unread = first ? s.tokens.begin() : s.tokens.end() - 1;
    tokens.insert(tokens.end(), unread, s.tokens.end());
    lengths.push_back(s.tokens.end() - unread);
    last.push_back(static_cast<std::int64_t>(tokens.size()) - 1);
    if (!in_.tasks.empty()) step.tasks.push_back(in_.tasks[s.input]);
  }
  step.sample_ids = samples();
  ctx_.tasks = step.tasks;
  TokenStream fresh;
  fresh.layout = make_layout(lengths, step.sample_ids);
  fresh.tokens = at::tensor(tokens, at::kLong);
  const std::int64_t before = first ? 0 : cache_.keys().rows();
  BackboneOutput out;
  if (has_encoder(backbone_)) {
    step.decoder = std::move(fresh);
    out = backbone_.decode(memory_, step, ctx_);
  } else {
    step.encoder = std::move(fresh);
    out = backbone_.forward(step, ctx_);
  }
  THINWIRE_ASSERT(cache_.keys().batch() == cache_.streams() &&
                      cache_.keys().rows() == before + out.layout.rows(),
                  "{} keeps no keys and values",
                  backbone_.config().architecture);

  at::Tensor rows = at::tensor(last, at::kLong);
  if (out.token_rows.defined()) rows = out.token_rows.index_select(0, rows);
  const auto* positions = out.layout.positions.const_data_ptr<std::int64_t>();
  std::vector<std::int64_t> at;
  for (const std::int64_t row :
       std::span(rows.const_data_ptr<std::int64_t>(), last.size())) {
    at.push_back(positions[row]);
  }
  if (first) check_room(at);
  const Layout ends = make_layout(std::vector<std::int64_t>(last.size(), 1),
                                  step.sample_ids, at);
  ForwardContext ctx = ctx_;
  ctx.layout = &ends;
  ctx.cache = nullptr;
  return backbone_
      .lm_logits(out.hidden.index_select(0, beside(rows, out.hidden)), ctx)
      .to(at::kFloat)
      .cpu()
      .contiguous();
}

void TokenStreams::go_on(const std::vector<std::int64_t>& from,
                         const std::vector<std::int64_t>& tokens) {
  std::vector<Stream> next;
  for (std::size_t i = 0; i < from.size(); ++i) {
    next.push_back(streams_[static_cast<std::size_t>(from[i])]);
    next.back().tokens.push_back(tokens[i]);
    ++next.back().written;
  }
  streams_ = std::move(next);
  if (!streams_.empty()) cache_.select(from);
}

}  // namespace thinwire
