// What `eval` and `predict` begin with: a config, a delta that was saved, or
// several that vote, and the folder of shards to go over.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "dist/ensemble.h"
#include "launch/open_run.h"
#include "launch/progress.h"
#include "launch/verb.h"

namespace thinwire {

class Communicator;

struct SavedRun {
  OpenRun open;  // open.eval the folder, or open.task_evals those of the tasks
  std::optional<Ensemble> members;  // attached
  std::vector<std::string> deltas;  // their paths
  EvalOptions options;              // rank 0 shows progress as `what`
};

// Reads CONFIG, overrides, --task, --data and each --delta. Blocks on all ranks
// until they agree on config and deltas. `progress` must outlive the result.
// Throws UsageError, IoError or CommError.
SavedRun open_saved_run(const Arguments& arguments, Communicator& comm,
                        Progress& progress, std::string_view what);

}  // namespace thinwire
