// What a person watches: one line that is redrawn on a terminal, a line every
// few seconds elsewhere.
#pragma once

#include <chrono>
#include <cstdint>
#include <string>
#include <string_view>

#include "dist/trainer.h"

namespace thinwire {

class Progress {
 public:
  Progress();
  ~Progress();
  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;

  void begin(std::int64_t first_step, std::int64_t steps);
  void step(const StepRecord& record);
  // Something else than a step that takes time: scoring, evaluation.
  void work(std::string_view what, std::int64_t done, std::int64_t of);
  // A line that stays.
  void say(const std::string& line);

 private:
  using Clock = std::chrono::steady_clock;
  void draw(const std::string& line, bool last);
  void clear();

  const bool terminal_;
  bool drawn_ = false;
  std::int64_t first_ = 0, steps_ = 0;
  double loss_ = 0;                        // smoothed
  double seconds_ = 0, comm_seconds_ = 0;  // of the steps so far
  Clock::time_point said_ = Clock::now();
};

// "1.23 MB", "4.0 GB": powers of 1000.
std::string human_bytes(double bytes);
// "12 s", "3 min 20 s", "2 h 05 min".
std::string human_seconds(double seconds);

}  // namespace thinwire
