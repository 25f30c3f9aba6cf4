// Text from a model that writes it: an encoder-decoder answers its input, a
// decoder goes on from it. Internal to tasks/.
#pragma once

#include <cstdint>
#include <vector>

#include "models/backbone.h"
#include "tasks/decoding.h"

namespace thinwire {

struct Generated {
  std::vector<std::int32_t> tokens;  // new ones, without the end-of-text token
  // Beam search: what the text won by, log-probability / length^penalty; else
  // the log-probability of its tokens (end included) where they were drawn or
  // taken from.
  double score = 0;
};

// For every sequence of in.encoder, in order. All are decoded together, and
// those that have ended leave; what a sequence gets does not depend on the
// others. No graph is recorded.
std::vector<Generated> generate(Backbone& backbone, const BackboneInput& in,
                                const ForwardContext& ctx, const Decoding& how);

// generate()'s with how.num_beams > 1.
std::vector<Generated> beam_search(Backbone& backbone, const BackboneInput& in,
                                   const ForwardContext& ctx,
                                   const Decoding& how);

}  // namespace thinwire
