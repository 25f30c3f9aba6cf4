// Arithmetic on saved deltas of one backbone and layout. It works on
// differences: of a number, what it is now less what it was when training
// began. Files hold the numbers themselves, so that sums of differences need to
// know where these began: `origin` [size].
#pragma once

#include <ATen/core/Tensor.h>

#include <memory>
#include <span>
#include <string>
#include <vector>

#include "models/backbone.h"
#include "peft/delta_file.h"
#include "peft/method.h"

namespace thinwire {

struct NamedDelta {
  std::string path;  // for messages
  DeltaFile file;
};

// Throws UsageError naming the first two files that differ in backbone or in
// layout, and the first entry of which that is so.
void require_alike(std::span<const NamedDelta> deltas);

// Where a delta's numbers began: what trains in place of the model's own
// numbers, there; what methods add, at their initial values with `seed`; where
// an entry holds differences, 0. backbone: frozen. Throws UsageError for
// entries that the methods do not declare.
at::Tensor origin_of(const Delta& delta, const Backbone& backbone,
                     std::vector<std::unique_ptr<Method>>& methods,
                     std::uint64_t seed);

// origin + sum of weights[i] * (values of i - origin), in the first delta,
// whose buffers stay its own. origin: undefined where the weights sum to 1, and
// it does not matter.
void combine(std::span<NamedDelta> deltas, std::span<const double> weights,
             const at::Tensor& origin);

// The first delta on the positions that all of them mask; entries without any
// are left out. Its numbers stay its own. Throws UsageError where the deltas
// are of different backbones, where one has dense entries that another lacks,
// or where nothing is left.
Delta intersect(std::span<const NamedDelta> deltas);

}  // namespace thinwire
