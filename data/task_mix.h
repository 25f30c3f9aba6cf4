// Which task comes when, in a run over several: a function of (seed, draw)
// alone, as the order of samples is.
//
// A draw is a sample's place in the global order or, where a step holds one
// task, a step. Draws come in blocks of kBlock; in each, every task has the
// same number of places, its probability times kBlock rounded to whole places
// (at least one), in an order drawn anew for each block. So the n-th draw of a
// task is found without counting those before it, however far a run is.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace thinwire {

struct MixingOptions {
  enum class Rule { kProportional, kEqual, kTemperature };
  Rule rule = Rule::kProportional;
  std::int64_t cap = 0;    // a task counts as so many samples at most; 0: off
  double temperature = 2;  // of kTemperature
  std::vector<double> weights{};  // [tasks], factors of that; empty: 1
  bool one_task = false;          // a step holds samples of one task
};

// The probability of each task, n_i samples, sum 1: proportional to
// w_i min(n_i, cap)^(1/T), T = 1 (proportional), `temperature`, or without end
// (equal). Throws UsageError for options out of range.
std::vector<double> task_probabilities(std::span<const std::int64_t> samples,
                                       const MixingOptions& options);

class TaskMix {
 public:
  static constexpr std::int64_t kBlock = 16384;  // draws

  // Throws UsageError for no task or more than kBlock.
  TaskMix(std::span<const double> probabilities, std::uint64_t seed);

  struct Draw {
    std::int32_t task;
    std::uint64_t count;  // of this task's draws before
  };
  // Keeps the block; not to be called from several threads.
  Draw at(std::uint64_t draw);

  std::int64_t places(std::int32_t task) const {
    return places_[static_cast<std::size_t>(task)];
  }
  // The task of each draw of a block.
  std::vector<std::int32_t> block(std::uint64_t number) const;

 private:
  std::uint64_t seed_;
  std::vector<std::int64_t> places_;          // of each task in a block
  std::uint64_t number_ = ~std::uint64_t{0};  // of the block kept
  std::vector<Draw> kept_;
};

}  // namespace thinwire
