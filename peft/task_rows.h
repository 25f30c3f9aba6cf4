// Methods with numbers of each task's own: their entries, and which of them the
// sequences of a batch use.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "peft/method.h"

namespace thinwire {

constexpr Field kTasksField{
    "tasks", FieldType::kInt, "1",
    "tasks of the run (1: whatever a sample's task, it is the only one)"};

// That field's value. Throws UsageError unless it is at least 1.
std::int64_t checked_tasks(const Config& config, std::string_view method);

// stem.TASK
std::string task_entry(std::string_view stem, std::int64_t task);
// A dense entry of that name, which moves in steps with samples of the task and
// is still in all others; the only task's always does.
void declare_of_task(DeltaBuilder& builder, std::string_view stem,
                     std::int64_t task, std::int64_t tasks, at::Tensor initial);

struct TaskRows {
  std::vector<std::int64_t> present;  // tasks of the batch, ascending
  std::vector<std::int64_t> of;       // [B] place in `present`
};
// Throws UsageError where a sequence's task is none of the method's.
TaskRows task_rows(const ForwardContext& ctx, std::int64_t tasks,
                   std::string_view method);

// values: one tensor for each task present, of one shape [...] -> [B, ...].
at::Tensor by_sequence(const std::vector<at::Tensor>& values,
                       const TaskRows& rows);

}  // namespace thinwire
