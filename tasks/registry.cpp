// An explicit table: static initialisers in a static library are dropped by
// the linker.
#include "base/error.h"
#include "base/nearest.h"
#include "tasks/task.h"

namespace thinwire {

#define THINWIRE_TASK(kind) const TaskInfo& kind##_task();
#include "tasks/tasks.def"
#undef THINWIRE_TASK

std::span<const TaskInfo> tasks() {
  static const TaskInfo kTasks[] = {
#define THINWIRE_TASK(kind) kind##_task(),
#include "tasks/tasks.def"
#undef THINWIRE_TASK
  };
  return kTasks;
}

const TaskInfo& find_task(std::string_view kind) {
  std::vector<std::string> kinds;
  for (const TaskInfo& info : tasks()) {
    if (info.kind == kind) return info;
    kinds.emplace_back(info.kind);
  }
  fail<UsageError>("task: kind '{}' is unknown; choose one of: {}", kind,
                   list_nearest_first(kind, kinds));
}

std::vector<double> Task::text_figures(const std::string&,
                                       std::span<const std::string>) const {
  fail<InternalError>("a {} task judges no texts", kind());
}

}  // namespace thinwire
