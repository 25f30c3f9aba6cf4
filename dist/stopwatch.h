// Milliseconds of a step's parts.
#pragma once

#include <chrono>
#include <utility>

namespace thinwire {

class Stopwatch {
 public:
  // Since the last lap, or since it was made.
  double lap() {
    const auto from = std::exchange(last_, Clock::now());
    return since(from, last_);
  }
  double total() const { return since(begin_, Clock::now()); }

 private:
  using Clock = std::chrono::steady_clock;
  static double since(Clock::time_point from, Clock::time_point to) {
    return std::chrono::duration<double, std::milli>(to - from).count();
  }
  Clock::time_point begin_ = Clock::now();
  Clock::time_point last_ = begin_;
};

}  // namespace thinwire
