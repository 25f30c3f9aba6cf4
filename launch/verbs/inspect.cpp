// thinwire inspect: what a config, delta, folder of shards or model holds.
#include <cstdio>
#include <filesystem>
#include <optional>

#include "base/error.h"
#include "comm/communicator.h"
#include "data/describe.h"
#include "launch/estimate/estimate.h"
#include "launch/estimate/features.h"
#include "launch/job.h"
#include "launch/open_run.h"
#include "launch/report.h"
#include "launch/verbs/verbs.h"
#include "ops/tensor_memory.h"

namespace thinwire {
namespace {

namespace fs = std::filesystem;

// folder: the run's that the config is in, "": of no run.
std::string inspect_config(const std::string& path, const std::string& folder,
                           const std::vector<std::string>& overrides,
                           Communicator& comm, bool json) {
  OpenRun open = open_run(load_run_config(path, overrides), Need::kIfNamed,
                          Need::kIfNamed, comm);
  const std::string text = describe_config(open);
  StepEstimate estimate;
  std::optional<FeaturesEstimate> features;
  if (comm.rank() == 0) {
    const ForeseenDelta foreseen = foresee_delta(open, folder, kScoringBudget);
    estimate =
        estimate_step(open, foreseen, largest_batch(open), kInspectBudget);
    features = estimate_features(open, foreseen, kInspectBudget);
  }
  if (json) {
    nlohmann::ordered_json out = to_json(estimate);
    if (features) out["features"] = to_json(*features);
    return out.dump(1) + "\n";
  }
  return text + describe(estimate) + (features ? describe(*features) : "");
}

std::string inspect_delta(const std::string& path) {
  const DeltaFile file = load_delta(path);
  std::string out = fmt::format("delta: {}\nlayout: {}\nbackbone: {}\n", path,
                                file.delta.hash().hex(), file.backbone.hex());
  for (const std::string& config : file.delta.method_configs()) {
    out += fmt::format("method: {}\n", config);
  }
  return out + describe_delta(file.delta);
}

std::string inspect(const std::string& what,
                    const std::vector<std::string>& overrides,
                    Communicator& comm, bool json) {
  const fs::path path = what;
  if (!fs::exists(path)) {
    fail<UsageError>("{}: no such file or folder", what);
  }
  if (fs::is_directory(path)) {
    if (fs::exists(path / "index.json")) {
      return describe(*open_shard_folder(what));
    }
    if (fs::exists(path / "delta.safetensors")) {
      return inspect_delta((path / "delta.safetensors").string());
    }
    if (fs::exists(path / "config.yaml")) {
      return inspect_config((path / "config.yaml").string(), what, overrides,
                            comm, json);
    }
    if (fs::exists(path / "config.json")) {
      const OpenModel model = open_model({.path = what}, comm);
      return describe_model(*model.backbone, model);
    }
    fail<UsageError>(
        "{}: is neither shards (index.json), a checkpoint "
        "(delta.safetensors), a run (config.yaml) nor a model (config.json)",
        what);
  }
  if (path.extension() == ".safetensors") return inspect_delta(what);
  return inspect_config(what, "", overrides, comm, json);
}

int run(const Arguments& arguments, Communicator& comm) {
  count_tensor_memory();
  set_threads(0);
  const std::string text =
      inspect(arguments.get("WHAT"), arguments.all("overrides"), comm,
              arguments.has("json"));
  if (comm.rank() == 0) std::fputs(text.c_str(), stdout);
  return kExitDone;
}

constexpr VerbOption kOptions[] = {
    {"WHAT", "a config, a delta, a checkpoint or run folder, shards or a model",
     true},
    {"overrides…", "key.path=value, for a config"},
    {"--json", "of a config: what a step will take, for programs"},
};

}  // namespace

constexpr Verb kInspectVerb{
    "inspect", "sizes of a config, delta, shard folder or model",
    "For a config: what would train, bytes per step with 2, 4 and 8 ranks, "
    "and\n"
    "the memory and arithmetic of a step, before anything is launched\n"
    "(docs/performance.md says how they are found).\n"
    "Example:\n"
    "  thinwire inspect configs/quickstart_fish.yaml peft.1.density=0.01",
    kOptions, &run};

}  // namespace thinwire
