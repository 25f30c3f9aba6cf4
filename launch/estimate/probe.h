// What a training step holds in memory, found by making one: on a model of the
// same widths with few layers and no real weights, under the count of
// ops/tensor_memory.h. So it follows whatever the kernels keep.
#pragma once

#include <cstdint>
#include <span>
#include <utility>
#include <vector>

#include "base/sample.h"
#include "launch/config.h"
#include "models/backbone.h"

namespace thinwire {

// Bytes of tensors beyond the weights and what trains. The parts of a step
// follow each other; where there is one stack alone, those of a decoder are 0.
struct StepMemory {
  enum Part {
    kEncoderForward,
    kForward,  // the rest of it, with the loss
    kBackward,
    kEncoderBackward,
    kUpdate,
    kParts
  };
  double peak[kParts] = {};
  double kept = 0;  // by the graph, when backward begins

  double most() const;
};

// What a linear layer was given.
struct SiteUse {
  std::int64_t rows = 0;
  bool grad = false;  // backward goes on through its input
};

struct Probe {
  StepMemory step;
  double state_bytes = 0;  // of what trains: values, gradients, optimizer …
  double numbers = 0;      // that train, gaps included
  std::vector<std::pair<Site, SiteUse>> sites;  // linear ones, if asked for
};

// Makes one step on `layers` + `decoder_layers` layers of the run's model with
// these samples. full: names and dtypes of the weights. Throws what the methods
// throw where they do not fit so few layers.
Probe probe_step(const RunConfig& config, const Backbone& full,
                 std::span<const Sample> samples, std::int64_t layers,
                 std::int64_t decoder_layers, bool count_sites);

}  // namespace thinwire
