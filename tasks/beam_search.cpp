// Beam search as HF's generate() does it. A step ranks all continuations of an
// input's n running beams by their log-probability; the first n that do not end
// run on. One that ends competes with those that have, by log-probability /
// length^penalty, if it is among the first n of all. When to stop:
// Decoding::EarlyStopping. fp32 throughout, so that ties and ranks are HF's.
#define TORCH_ASSERT_ONLY_METHOD_OPERATORS
#include <ATen/core/grad_mode.h>

#include <algorithm>
#include <cmath>
#include <tuple>

#include "base/error.h"
#include "tasks/generate.h"
#include "tasks/token_streams.h"

namespace thinwire {
namespace {

struct Finished {
  std::vector<std::int32_t> tokens;
  float score;
};

// The beams of one input.
class Beams {
 public:
  struct Next {
    std::int64_t beam, token;
    float score;
  };

  Beams(const Decoding& how, std::int64_t eos)
      : how_(&how), size_(static_cast<std::size_t>(how.num_beams)), eos_(eos) {}

  const std::vector<float>& running() const { return running_; }
  const std::vector<Finished>& finished() const { return finished_; }

  // ranked: the likeliest continuations, at least twice as many as beams;
  // streams: of the running beams. Returns those that run on, none if the
  // search is over.
  std::vector<Next> step(const std::vector<Next>& ranked,
                         std::span<const TokenStreams::Stream> streams) {
    const std::int64_t written = streams.front().written + 1;
    const bool last = written == how_->max_new_tokens;
    std::vector<Next> on;
    for (std::size_t i = 0; i < ranked.size(); ++i) {
      const Next& next = ranked[i];
      if (next.token != eos_ && !last) {
        if (on.size() < size_) on.push_back(next);
      } else if (i < size_) {
        finish(next, streams[static_cast<std::size_t>(next.beam)], written);
      }
    }
    std::ranges::stable_sort(finished_, std::greater{}, &Finished::score);
    if (finished_.size() > size_) finished_.resize(size_);
    running_.clear();
    for (const Next& next : on) running_.push_back(next.score);
    const bool full = finished_.size() == size_;
    if (last || on.empty() ||
        (full && (stops_when_full() || !can_improve(written)))) {
      return {};
    }
    return on;
  }

 private:
  bool stops_when_full() const {
    return how_->early_stopping == Decoding::EarlyStopping::kYes;
  }

  float normalised(float score, std::int64_t length) const {
    return score / static_cast<float>(std::pow(static_cast<double>(length),
                                               how_->length_penalty));
  }

  bool can_improve(std::int64_t written) const {
    const bool longest =
        how_->early_stopping == Decoding::EarlyStopping::kNever &&
        how_->length_penalty > 0;
    return normalised(running_.front(),
                      longest ? how_->max_new_tokens : written) >
           finished_.back().score;
  }

  void finish(const Next& next, const TokenStreams::Stream& stream,
              std::int64_t written) {
    Finished text{{}, normalised(next.score, written)};
    const auto begin = stream.tokens.end() - stream.written;
    for (auto token = begin; token != stream.tokens.end(); ++token) {
      text.tokens.push_back(static_cast<std::int32_t>(*token));
    }
    if (next.token != eos_) {
      text.tokens.push_back(static_cast<std::int32_t>(next.token));
    }
    finished_.push_back(std::move(text));
  }

  const Decoding* how_;
  std::size_t size_;
  std::int64_t eos_;
  std::vector<float> running_{0};
  std::vector<Finished> finished_;  // best first
};

// scores [beams, V] of one input: the `count` likeliest continuations; those
// that are forbidden are none, unless all are.
std::vector<Beams::Next> rank(const at::Tensor& scores, std::int64_t count) {
  const auto [best, at] =
      scores.flatten().topk(std::min(count, scores.numel()));
  const auto* score = best.const_data_ptr<float>();
  const auto* index = at.const_data_ptr<std::int64_t>();
  std::vector<Beams::Next> out;
  for (std::int64_t i = 0; i < best.numel(); ++i) {
    if (i > 0 && std::isinf(score[i])) break;
    out.push_back(
        {index[i] / scores.size(1), index[i] % scores.size(1), score[i]});
  }
  return out;
}

}  // namespace

std::vector<Generated> beam_search(Backbone& backbone, const BackboneInput& in,
                                   const ForwardContext& ctx,
                                   const Decoding& how) {
  const at::NoGradGuard no_grad;
  const std::int64_t eos = backbone.config().eos_id;
  const std::int64_t candidates = 2 * how.num_beams;
  if (candidates > backbone.config().vocab_size) {
    fail<UsageError>("task.num_beams is {}; a vocabulary of {} allows {}",
                     how.num_beams, backbone.config().vocab_size,
                     backbone.config().vocab_size / 2);
  }
  std::vector<Beams> beams(in.sample_ids.size(), Beams(how, eos));
  TokenStreams texts(backbone, in, ctx, how.max_new_tokens);
  while (!texts.streams().empty()) {
    at::Tensor scores = texts.next_logits().log_softmax(1);
    const auto vocabulary = static_cast<std::size_t>(scores.size(1));
    auto* row = scores.mutable_data_ptr<float>();
    const auto& streams = texts.streams();
    std::vector<std::int64_t> from, tokens;
    for (std::size_t begin = 0, end = 0; begin < streams.size(); begin = end) {
      while (end < streams.size() && streams[end].input == streams[begin].input)
        ++end;
      Beams& mine = beams[streams[begin].input];
      for (std::size_t s = begin; s < end; ++s) {
        const std::span<float> next(row + s * vocabulary, vocabulary);
        forbid_tokens(next, streams[s].tokens, streams[s].written,
                      backbone.config(), how);
        for (float& x : next) x += mine.running()[s - begin];
      }
      const auto first = static_cast<std::int64_t>(begin);
      const auto on = mine.step(
          rank(scores.narrow(0, first, static_cast<std::int64_t>(end - begin)),
               candidates),
          std::span(streams).subspan(begin, end - begin));
      for (const Beams::Next& next : on) {
        from.push_back(first + next.beam);
        tokens.push_back(next.token);
      }
    }
    texts.go_on(from, tokens);
  }
  std::vector<Generated> out;
  for (const Beams& mine : beams) {
    const Finished& best = mine.finished().front();
    out.push_back({best.tokens, best.score});
  }
  return out;
}

}  // namespace thinwire
