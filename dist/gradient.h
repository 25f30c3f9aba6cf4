// What is asked of the summed gradient before a step: which entries move, how
// long it is, whether it is finite.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "peft/delta.h"

namespace thinwire {

// Per entry: does it move at this step (0 for the first), given the tasks that
// the samples of the step belong to?
std::vector<bool> active_entries(const Delta& delta, std::int64_t step,
                                 std::span<const std::int32_t> tasks);

// At any of the steps first … last.
std::vector<bool> active_entries(const Delta& delta, std::int64_t first,
                                 std::int64_t last,
                                 std::span<const std::int32_t> tasks);

// Tasks that some entry's activity asks about, sorted. Few or none.
std::vector<std::int32_t> tasks_asked(const Delta& delta);

struct GradientScale {
  double norm = 0;            // of weight_scale * gradient, active entries only
  bool finite = true;         // of those entries
  std::vector<double> group;  // [groups] multiplies the gradient: weight_scale
                              // times the clip group's own factor
};

// Clips each clip group to norm `clip` (0: off) like PyTorch: factor
// min(1, clip / (norm + 1e-6)). One pass over the gradient.
GradientScale scale_gradient(Delta& delta, const std::vector<bool>& active,
                             double weight_scale, double clip);

// Name of the first entry whose gradient is not finite, "" if all are.
std::string first_nonfinite(Delta& delta);

}  // namespace thinwire
