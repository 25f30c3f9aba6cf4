// The folder of a run: config.yaml (resolved), metrics.jsonl, TensorBoard
// events, checkpoints/, best/, log.txt (of rank 0; log-R.txt of rank R) and
// summary.json.
#pragma once

#include <nlohmann/json.hpp>
#include <string>

namespace thinwire {

class Communicator;

// Makes or reopens the folder: refused if it holds a run already unless
// `resume`, and if it cannot be written. Starts this rank's log there. Blocks
// on all ranks; throws UsageError on all alike.
void open_run_folder(Communicator& comm, const std::string& folder,
                     bool resume);

// From here on the folder holds a run. Whole or not at all, like the summary,
// which is also the last line of metrics.jsonl. Throw IoError.
void write_config(const std::string& folder, const std::string& config_text);
void write_summary(const std::string& folder,
                   const nlohmann::ordered_json& summary);

}  // namespace thinwire
