// What a training step holds in memory, found by making one: on a model of the
// same widths with few layers and no real weights, under the count of
// ops/tensor_memory.h. So it follows whatever the kernels keep.
#pragma once

#include <cstdint>
#include <map>
#include <span>
#include <string>

#include "base/sample.h"
#include "launch/config.h"
#include "launch/estimate/masks.h"
#include "models/backbone.h"
#include "peft/delta.h"

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
  // Of what a cache gives the batch, as it was read: no tensors.
  double features = 0;

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
  // Linear sites, named as in the run's model; if asked for.
  std::map<std::string, SiteUse> sites;
};

// Makes one step on some layers of the run's model with these samples. full:
// names and dtypes of the weights; delta: the run's, for its masks. Throws what
// the methods throw where they do not fit so few layers.
Probe probe_step(const RunConfig& config, const Backbone& full,
                 const Delta& delta, std::span<const Sample> samples,
                 const ChosenLayers& chosen, bool count_sites);

}  // namespace thinwire
