#include "peft/task_rows.h"

#include <ATen/ops/stack.h>
#include <ATen/ops/tensor.h>

#include <algorithm>
#include <utility>

#include "base/error.h"
#include "peft/method_tools.h"

namespace thinwire {

std::int64_t checked_tasks(const Config& config, std::string_view method) {
  const auto tasks = config.at("tasks").get<std::int64_t>();
  if (tasks >= 1) return tasks;
  fail<UsageError>("{}: tasks must be at least 1, got {}", method, tasks);
}

std::string task_entry(std::string_view stem, std::int64_t task) {
  return fmt::format("{}.{}", stem, task);
}

void declare_of_task(DeltaBuilder& builder, std::string_view stem,
                     std::int64_t task, std::int64_t tasks,
                     at::Tensor initial) {
  DeltaEntry e;
  e.name = task_entry(stem, task);
  e.shape = initial.sizes().vec();
  e.group = decay_group(builder, e.shape.size());
  if (tasks > 1) e.active.tasks = {static_cast<std::int32_t>(task)};
  builder.add(std::move(e), std::move(initial));
}

TaskRows task_rows(const ForwardContext& ctx, std::int64_t tasks,
                   std::string_view method) {
  const auto batch = static_cast<std::size_t>(ctx.layout->batch());
  TaskRows out;
  if (tasks == 1) {
    out.present = {0};
    out.of.assign(batch, 0);
    return out;
  }
  THINWIRE_ASSERT(ctx.tasks.size() == batch, "tasks of {} sequences, {} there",
                  ctx.tasks.size(), batch);
  out.present.assign(ctx.tasks.begin(), ctx.tasks.end());
  std::ranges::sort(out.present);
  const auto [first, last] = std::ranges::unique(out.present);
  out.present.erase(first, last);
  if (out.present.front() < 0 || out.present.back() >= tasks) {
    fail<UsageError>(
        "{}: a sample is of task {}, and tasks is {}; set peft.N.tasks to the "
        "number of tasks in data.train",
        method,
        out.present.front() < 0 ? out.present.front() : out.present.back(),
        tasks);
  }
  for (const std::int32_t task : ctx.tasks) {
    const auto at = std::ranges::find(out.present, std::int64_t{task});
    out.of.push_back(at - out.present.begin());
  }
  return out;
}

at::Tensor by_sequence(const std::vector<at::Tensor>& values,
                       const TaskRows& rows) {
  const at::Tensor& first = values.front();
  if (values.size() == 1) {
    std::vector<std::int64_t> shape = first.sizes().vec();
    shape.insert(shape.begin(), static_cast<std::int64_t>(rows.of.size()));
    return first.unsqueeze(0).expand(shape);
  }
  return at::stack(values).index_select(
      0, at::tensor(rows.of, at::kLong).to(first.device()));
}

}  // namespace thinwire
