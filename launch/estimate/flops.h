// Floating-point operations of a training step, by the count of its products:
// tokens through each linear layer and low-rank or adapter matrix, attention's
// two products and the output matrix. 2 m n k a product; padding is not counted
// and nothing is computed twice.
#pragma once

#include <span>

#include "base/sample.h"
#include "launch/estimate/layer_plan.h"
#include "launch/estimate/probe.h"
#include "models/backbone.h"
#include "peft/delta.h"

namespace thinwire {

struct StepFlops {
  double forward = 0, backward = 0;
  // Of forward: what heads and channels take that a delta removed whole. They
  // are multiplied as zeros until it is merged.
  double removed = 0;
  double total() const { return forward + backward; }
};

// probe: of the same run with fewer layers, sites counted, on samples `probed`;
// layers that it lacks are like those that `plan` names; the answer is for
// `samples`. A frozen layer costs its product once more in
// backward where its input carries a gradient, one that trains a third time; a
// masked one 2 k per token instead.
StepFlops count_flops(const Backbone& backbone, const Delta& delta,
                      const Probe& probe, const LayerPlan& plan,
                      std::span<const Sample> probed,
                      std::span<const Sample> samples);

}  // namespace thinwire
