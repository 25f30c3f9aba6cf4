// Which few layers of a run's model are measured so that all of them are
// foretold. Layers are alike where the same tensors of them train and backward
// reaches them alike; one of each kind is measured.
#pragma once

#include <cstdint>
#include <vector>

#include "models/backbone.h"
#include "peft/delta.h"

namespace thinwire {

// Of one stack, layers by their number in the whole model.
struct StackPlan {
  std::vector<int> base;  // ascending: of the first model that is measured
  struct More {
    int layer;           // beside those of `base`, in its place among them
    std::int64_t times;  // as often as layers like it are left
  };
  std::vector<More> more;
  std::vector<int> like;  // of each layer, the one of `base` whose inputs carry
                          // a gradient as its own do

  // base and `layer`, ascending.
  std::vector<int> with(int layer) const;
};

struct LayerPlan {
  StackPlan encoder, decoder;  // one stack alone is the first
};

// What of the delta trains in a layer, or stands beside it alone, tells layers
// apart. Where more than a few kinds occur, rare ones count as the kind that
// differs from them in fewest tensors.
LayerPlan plan_layers(const Backbone& backbone, const Delta& delta);
// Every layer, nothing left to foretell.
LayerPlan all_layers(const Backbone& backbone);

}  // namespace thinwire
