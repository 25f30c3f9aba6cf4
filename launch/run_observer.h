// What a run tells the outside: rank 0 draws progress and writes metrics.jsonl
// and TensorBoard events; the other ranks only log.
#pragma once

#include <memory>
#include <string>

#include "dist/trainer.h"

namespace thinwire {

// folder: of the run; log_every: steps between lines of metrics.jsonl.
std::unique_ptr<TrainObserver> make_observer(int rank,
                                             const std::string& folder,
                                             std::int64_t log_every);

}  // namespace thinwire
