// A run's configuration, checked: sections model, task, data, peft, train,
// comm and the run folder (`thinwire train --help-config` lists every key).
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "dist/search_options.h"
#include "dist/trainer.h"

namespace thinwire {

struct ModelChoice {
  std::string path{};    // HF folder; "": random weights from `config`
  std::string config{};  // config.json
  std::uint64_t seed = 1;
  std::string dtype = "fp32";  // of its matrices: fp32 | bf16 | int8
  std::string cache{};         // models/store_folder.h; "": the user's
};

struct MethodChoice {
  std::string id;
  Config config;  // every field present
};

// One of several tasks: its number is its place.
struct TaskData {
  std::string name;
  std::string train, eval;  // folders; eval "": none
  std::vector<std::string> metrics;
};

struct RunConfig {
  std::string path;  // of the file it came from
  std::string about;
  std::string device = "cpu";  // or cuda
  ModelChoice model;
  std::string task_kind;
  TaskConfig task;
  std::string train_data, eval_data;  // folders; "": none
  std::vector<TaskData> tasks;        // several tasks: instead of those
  std::int64_t max_tokens = 0;        // 0: the model's own limit
  std::vector<MethodChoice> peft;
  TrainOptions train;
  std::int64_t threads = 0;  // per rank; 0: cores / local ranks
  bool reference_ops = false;
  std::string backend = "auto";
  double timeout_seconds = 120;  // of a wait for a rank that answers
  double silence_seconds = 5;    // of a rank that does not
  std::string output;
  std::optional<SearchOptions> search;  // what `thinwire search` is asked for
  std::string search_data;              // folder; "": eval_data
  // Everything above, defaults filled in; as YAML: what config.yaml of the run
  // folder holds.
  nlohmann::ordered_json all;
  std::string text;
  // The same without what may differ from host to host because its contents are
  // agreed by digest: paths of model, data and cache.
  std::string agreed_text;
};

// Throws UsageError or IoError with one line. Checks types, ranges, method
// and task fields; opens nothing that the config names.
RunConfig load_run_config(const std::string& path,
                          const std::vector<std::string>& overrides);

std::vector<std::unique_ptr<Method>> make_methods(const RunConfig& config);
std::unique_ptr<Task> make_task(const RunConfig& config);

// The value as block YAML, readable by load_run_config.
std::string to_yaml(const nlohmann::ordered_json& value);

}  // namespace thinwire
