// The learning rate as a function of the step alone.
//
// With T steps in all, w of warm-up, and s = 0 for the first step:
//   s < w     lr * s / w
//   linear    lr * max(0, (T - s) / (T - w))
//   cosine    lr * max(0, (1 + cos(pi * (s - w) / (T - w))) / 2)
//   constant  lr
// the same as transformers' schedules of these names, so that the first of w
// warm-up steps has rate 0.
#pragma once

#include <cstdint>
#include <string_view>

namespace thinwire {

enum class Schedule { kLinear, kCosine, kConstant };

// The steps [begin, end) that a schedule extends over.
struct Stretch {
  std::int64_t begin = 0, end = 0;
};

Schedule parse_schedule(std::string_view name);  // UsageError, lists them

double learning_rate(Schedule schedule, double lr, std::int64_t warmup,
                     std::int64_t steps, std::int64_t step);

}  // namespace thinwire
