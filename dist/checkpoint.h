// Checkpoints: a folder that is either whole or not there.
//
// checkpoints/step-N/: delta.safetensors (peft/delta_file.h),
// optimizer.safetensors (flat state vectors, every rank's buffers), state.json
// (step, data position, best metric, counters, config text), manifest.json
// (size and XXH3-128 of each file, written last). Written to
// checkpoints/.tmp-step-N, every file and folder fsynced, then renamed.
// Leftover temporary folders are swept when a run starts.
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "models/safetensors.h"
#include "peft/delta.h"

namespace thinwire {

struct Checkpoint {
  Delta delta;
  Digest backbone;
  NamedTensors optimizer;        // flat vectors [size] and per-run scalars
  nlohmann::ordered_json state;  // step, samples, best, counters, config
};

// Throws IoError; earlier checkpoints are untouched, the temporary is removed.
void save_checkpoint(const std::string& folder, const Delta& delta,
                     const Digest& backbone, const NamedTensors& optimizer,
                     const nlohmann::ordered_json& state);
// Verifies the manifest first. Throws IoError/UsageError (file, what).
Checkpoint load_checkpoint(const std::string& folder);
// Newest whole checkpoint under `checkpoints`, damaged ones skipped with the
// reason in `skipped`; none: nullopt.
std::optional<std::string> newest_checkpoint(const std::string& checkpoints,
                                             std::vector<std::string>* skipped);
// Deletes all but the newest `keep`, and leftover temporaries.
void prune_checkpoints(const std::string& checkpoints, std::int64_t keep);

}  // namespace thinwire
