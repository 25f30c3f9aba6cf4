// Which rank the others wait for: one that takes much longer over its own part
// of a step than the middle one, and over what.
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>

#include "dist/trainer.h"

namespace thinwire {

class Communicator;

// Milliseconds that a rank worked over some steps, by part of a step; waiting
// for other ranks is none of it.
struct Pace {
  static constexpr std::array<std::string_view, 4> kParts = {
      "data", "forward", "backward", "optimizer"};
  std::array<double, kParts.size()> parts{};
  double total() const;
};

// The slowest rank, by all paces [ranks]; -1 where it takes less than 1.5 times
// what the middle one (of two: the other) takes.
int find_straggler(std::span<const Pace> ranks);

class PaceWatch {
 public:
  static constexpr std::int64_t kSteps = 20;  // between comparisons

  // This rank's step.
  void count(const StepRecord& record);

  // When kSteps were counted: compares the ranks, blocking on them; every rank
  // calls it after the same steps. A line about a rank that has fallen behind,
  // once until it has caught up or another is behind; else nothing. Throws
  // CommError.
  std::string compare(Communicator& comm);

 private:
  Pace mine_;
  std::int64_t steps_ = 0;
  int named_ = -1;
};

}  // namespace thinwire
