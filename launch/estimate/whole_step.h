// A step of the whole model and batch, foretold from steps of a few layers (and
// where these cost too much, a few samples): bytes are the sum of what layers
// add.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "base/sample.h"
#include "launch/estimate/layer_plan.h"
#include "launch/estimate/probe.h"
#include "launch/open_run.h"
#include "peft/delta.h"

namespace thinwire {

struct WholeStep {
  // Bytes of tensors beyond the weights and what trains: the most, and what the
  // graph holds when backward begins.
  double peak = 0, kept = 0;
  double features = 0;  // bytes, of what a cache gives the batch; no tensors
  Probe probe;  // the first that was made, on plan's base, sites counted
  LayerPlan plan;
  std::vector<Sample> probed;  // what it was made with
};

std::int64_t tokens_of(std::span<const Sample> samples);  // targets included

// budget: floating-point operations of all steps together, roughly; at least
// three samples are measured whatever they cost.
WholeStep foretell_step(const OpenRun& run, const Delta& delta,
                        std::span<const Sample> batch, double budget);

}  // namespace thinwire
