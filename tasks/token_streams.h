// The texts of a batch while they are being written: what a backbone says
// comes next, one pass over the new tokens at a time. Internal to tasks/.
// S streams, V vocabulary.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

#include "models/backbone.h"
#include "models/kv_cache.h"

namespace thinwire {

class TokenStreams {
 public:
  struct Stream {
    std::size_t input;                 // sequence of the batch
    std::vector<std::int64_t> tokens;  // prompt or start token, and the new
    std::int64_t written = 0;          // how many are new
  };

  // One stream per sequence of the batch: behind the start token, with the
  // encoder's output in reach; in a decoder-only model behind the sequence
  // itself. The backbone and the input must outlive it. most: new tokens that
  // may come.
  TokenStreams(Backbone& backbone, const BackboneInput& in,
               const ForwardContext& ctx, std::int64_t most);

  const std::vector<Stream>& streams() const { return streams_; }
  // fp32 [S, V] on the CPU, of each stream's next token. Once between two
  // go_on(). The first throws UsageError where the model has no positions for
  // all that may come.
  at::Tensor next_logits();
  // Stream i goes on from what stream from[i] was, by tokens[i]; the others
  // end (KvCache::select() has the order).
  void go_on(const std::vector<std::int64_t>& from,
             const std::vector<std::int64_t>& tokens);

 private:
  std::vector<std::uint64_t> samples() const;
  // last: each stream's position now.
  void check_room(const std::vector<std::int64_t>& last) const;

  Backbone& backbone_;
  const BackboneInput& in_;
  ForwardContext ctx_;
  std::int64_t most_;
  BackboneOutput memory_;
  KvCache cache_;
  std::vector<Stream> streams_;
};

}  // namespace thinwire
