// What the ranks of a run must share before its first step.
#pragma once

#include "dist/trainer.h"

namespace thinwire {

// Compares configuration, backbone and data over the ranks, checks the options
// and settles those that others decide (`deterministic`). Blocks on all ranks.
// Throws UsageError on every rank alike, naming what differs or is wrong.
void agree_on_inputs(TrainRun& run);

}  // namespace thinwire
