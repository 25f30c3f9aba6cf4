#include "tasks/label_smoothing.h"

#include "base/error.h"

namespace thinwire {

double read_label_smoothing(const TaskConfig& config) {
  const auto value = config.at("label_smoothing").get<double>();
  if (!(value >= 0 && value < 1)) {
    fail<UsageError>(
        "task.label_smoothing is {}; it must be at least 0 and below 1", value);
  }
  return value;
}

}  // namespace thinwire
