// Opens what a config names and checks that the parts fit together.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "base/hash.h"
#include "data/shard_folder.h"
#include "launch/config.h"
#include "launch/open_model.h"
#include "models/backbone.h"
#include "peft/delta_file.h"

namespace thinwire {

class Communicator;

struct OpenRun {
  RunConfig config;
  OpenModel model;  // without its backbone, which is here, head added:
  std::unique_ptr<Backbone> backbone;
  Digest identity;
  std::unique_ptr<Task> task;
  std::vector<std::unique_ptr<Method>> methods;
  std::shared_ptr<const ShardFolder> train, eval;  // null: not asked for
  std::vector<TaskEval> task_evals;                // of several tasks
};

enum class Need { kNothing, kIfNamed, kRequired };

// Throws UsageError unless the ranks' configs agree, but for the paths of what
// is agreed by digest; config.text is rank 0's on return. Blocks on all ranks.
void agree_config(Communicator& comm, RunConfig& config);

// Sets the process's threads and reference_ops as the config says. Blocks on
// all ranks. Throws UsageError or IoError naming file and key.
OpenRun open_run(RunConfig config, Need train, Need eval, Communicator& comm);

// Opens a folder of shards and holds it to model and task. key: the config's,
// for messages.
std::shared_ptr<const ShardFolder> open_data(const std::string& path,
                                             std::string_view key,
                                             const RunConfig& config,
                                             const Backbone& backbone);

// The file of a delta: `path` itself, of a checkpoint folder, or of a run
// folder (its best/, else its newest checkpoint). Throws UsageError.
std::string find_delta(const std::string& path);

// A delta from a file, a checkpoint folder, a run folder (its best/, else its
// newest checkpoint) or, when `path` is empty, from the config's run folder;
// checked against the run's backbone and methods. Its path goes to *found
// unless null.
Delta load_saved_delta(const OpenRun& run, const std::string& path,
                       std::string* found = nullptr);
bool holds_delta(const std::string& path);  // where that would look

// The same, attached to the backbone.
Delta attach_saved_delta(OpenRun& run, const std::string& path);

}  // namespace thinwire
