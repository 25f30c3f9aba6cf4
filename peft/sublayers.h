// The linear layers of a backbone by the sublayer that they belong to.
#pragma once

#include <map>
#include <tuple>
#include <vector>

#include "models/backbone.h"

namespace thinwire {

// Linear layers between two ends of the residual stream, and where they end.
struct Sublayer {
  std::vector<const Site*> in;  // all read the same rows
  const Site* out = nullptr;
  const Site* end = nullptr;  // the sublayer's own site, with its norm
};

// In the order in which they run: by stack, layer and what they are. Valid
// while the backbone's sites stay as they are.
using Sublayers = std::map<std::tuple<Stack, int, Role>, Sublayer>;
Sublayers sublayers_of(const Backbone& backbone);

}  // namespace thinwire
