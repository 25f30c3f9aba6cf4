// One batch's loss and gradient, computed in several ways that must agree.
#pragma once

#include <span>
#include <vector>

#include "base/sample.h"
#include "launch/bench/step_bench.h"

namespace thinwire {

// The batch at once against its examples one by one (what packing could mix
// up), and the kernels against their plain twins (ops/reference.h). Attaches
// and leaves the methods attached.
std::vector<StepCheck> check_step(OpenRun& run, Delta& delta,
                                  std::span<const Sample> batch);

}  // namespace thinwire
