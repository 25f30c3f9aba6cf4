// The checkpoint a run continues from: chosen by rank 0, the same bytes on
// every rank, whether or not a rank sees the run folder.
#pragma once

#include <optional>
#include <string>

#include "dist/checkpoint.h"
#include "dist/run_state.h"
#include "dist/trainer.h"

namespace thinwire {

struct Resumed {
  std::string folder;  // as rank 0 sees it
  Checkpoint checkpoint;
};

// The newest whole checkpoint under `checkpoints` of rank 0; none: nullopt.
// Damaged ones are reported to the observer and passed over. Blocks on all
// ranks; an error on one is raised on all.
std::optional<Resumed> load_newest(Communicator& comm,
                                   const std::string& checkpoints,
                                   TrainObserver* observer);

// How many global batches of the training data lie before the next step.
// Throws UsageError naming `where` if that is between two batches of this run,
// or if which task comes when would not be what it was.
std::uint64_t batches_before(const RunState& state, const TrainRun& run,
                             const std::string& where);

}  // namespace thinwire
