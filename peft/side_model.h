// A narrower model of a backbone's own kind, to run beside it: some of its
// layers at a fraction of its widths, the heads as many, without embeddings and
// head.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "models/backbone.h"

namespace thinwire {

class TensorSource;

// Layers of the backbone, ascending.
struct SideLayers {
  std::vector<int> encoder, decoder;

  const std::vector<int>& of(Stack stack) const {
    return stack == Stack::kEncoder ? encoder : decoder;
  }
};

// One tensor of the side model.
struct SideTensor {
  std::string entry;  // its name in a delta: the reference code's
  int slot = -1;      // of the side model
  int from = -1;      // the backbone's slot that it stands for
};

struct SideModel {
  std::unique_ptr<Backbone> backbone;  // its layers are those of SideLayers
  std::vector<SideTensor> tensors;     // of its layers and of what ends a stack
};

// factor: divides every width, rounding down. The tensors are what `source`
// gives; none of the others is ever read. Throws UsageError where a width is
// none or the heads do not divide it.
SideModel make_side_model(const Backbone& backbone, std::int64_t factor,
                          const SideLayers& layers, TensorSource& source);
// The same with shapes alone, for leaves to take their places.
SideModel make_side_shapes(const Backbone& backbone, std::int64_t factor,
                           const SideLayers& layers);

// HF's name of a stack and of its layer, as encoder and encoder.block.3.
std::string layer_name(const Backbone& backbone, Stack stack, int layer);
std::string stack_name(const Backbone& backbone, Stack stack);

}  // namespace thinwire
