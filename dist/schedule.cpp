#include "dist/schedule.h"

#include <algorithm>
#include <cmath>
#include <numbers>

#include "base/error.h"

namespace thinwire {

Schedule parse_schedule(std::string_view name) {
  if (name == "linear") return Schedule::kLinear;
  if (name == "cosine") return Schedule::kCosine;
  if (name == "constant") return Schedule::kConstant;
  fail<UsageError>(
      "train.schedule: '{}' is unknown; choose one of: linear, cosine, "
      "constant",
      name);
}

double learning_rate(Schedule schedule, double lr, std::int64_t warmup,
                     std::int64_t steps, std::int64_t step) {
  const auto s = static_cast<double>(step);
  const auto w = static_cast<double>(warmup);
  if (step < warmup) return lr * (s / w);
  const double span =
      static_cast<double>(std::max<std::int64_t>(1, steps - warmup));
  switch (schedule) {
    case Schedule::kConstant:
      return lr;
    case Schedule::kLinear:
      return lr * std::max(0.0, (static_cast<double>(steps) - s) / span);
    case Schedule::kCosine:
      return lr * std::max(0.0, 0.5 * (1 + std::cos(std::numbers::pi *
                                                    ((s - w) / span))));
  }
  fail<InternalError>("schedule {}", static_cast<int>(schedule));
}

}  // namespace thinwire
