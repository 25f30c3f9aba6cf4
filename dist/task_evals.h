// Evaluation of several tasks: each by itself, then what they have in common.
#pragma once

#include <span>
#include <string_view>
#include <vector>

#include "dist/evaluate.h"

namespace thinwire {

// A record of each task, in order, and last one of all together: every metric
// that was asked for as TASK.METRIC, `average` (the mean over tasks of each
// one's score, which is the mean of its metrics: the GLUE average) and `loss`,
// the mean of theirs. A loss is no score: tasks that are followed by theirs
// have no average. Blocks on all ranks. Throws UsageError naming a task and its
// metrics where it has none of that name.
std::vector<EvalRecord> evaluate_tasks(Communicator& comm, Backbone& backbone,
                                       Task& task,
                                       std::span<const TaskEval> tasks,
                                       const EvalOptions& options);

// As `tasks` asks, of the tasks' own records.
EvalRecord average_tasks(std::span<const TaskEval> tasks,
                         std::span<const EvalRecord> records,
                         std::string_view main_metric);

// What a run evaluates: one record, or those of its tasks.
std::vector<EvalRecord> evaluate_run(const TrainRun& run,
                                     const EvalOptions& options);

}  // namespace thinwire
