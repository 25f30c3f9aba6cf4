// data.train of a run over several tasks: a map of names, or a list.
#pragma once

#include <nlohmann/json.hpp>

#include "launch/config.h"
#include "launch/config_tree.h"

namespace thinwire {

// Where `root` gives data.train as a map or list: takes it and section mixing
// out of the tree into config.tasks and config.train.mixing, and returns both
// as {"train": …, "mixing": …}, defaults filled in. Else null. Throws
// UsageError with file:line.
nlohmann::ordered_json take_tasks(ConfigNode& root, RunConfig& config);

// With its other paths, those of the tasks are hidden (RunConfig::agreed_text).
void hide_task_paths(nlohmann::ordered_json& train);

// The task of that name. Throws UsageError naming all.
TaskData& find_task_data(RunConfig& config, std::string_view name);

// What the keys of a task are, for --help-config.
std::span<const Field> task_data_fields();

}  // namespace thinwire
