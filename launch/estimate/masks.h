// The masks of a run's delta on a model that has only some of its layers.
#pragma once

#include <vector>

#include "models/backbone.h"
#include "peft/delta.h"

namespace thinwire {

// Layers of a run's model that another model of fewer layers is made of, in
// order; numbers of the run's.
struct ChosenLayers {
  std::vector<int> encoder, decoder;  // one stack alone is the first
};

// `declared` was declared on the small model. Its masked entries are replaced
// by those that `whole` has on `full` for the chosen layers and outside of
// layers; values are zeros, nothing is shared with `whole`. Without masked
// entries in `whole` it is returned as it is.
Delta with_masks_of(Delta declared, const Delta& whole, const Backbone& full,
                    const ChosenLayers& chosen);

}  // namespace thinwire
