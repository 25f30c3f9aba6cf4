// Text from an encoder-decoder.
#pragma once

#include <cstdint>
#include <vector>

#include "models/backbone.h"

namespace thinwire {

// The likeliest token each time (the lowest of equals), until the end-of-text
// token or max_new_tokens; for every sequence of in.encoder. The start and end
// tokens are not part of what is returned. The encoder runs once, the decoder
// once per token over all tokens so far. No graph is recorded.
std::vector<std::vector<std::int32_t>> greedy_decode(
    Backbone& backbone, const BackboneInput& in, const ForwardContext& ctx,
    std::int64_t max_new_tokens);

}  // namespace thinwire
