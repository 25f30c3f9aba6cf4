// When a mask is drawn, and how much of the model it then holds.
//
// Everything trains for dense_steps; the mask is drawn then, and anew every
// `every` steps until `until`, after which it stays. With density_start it
// holds that much at first, and `density` from the last drawing on; between, at
// a share x of the drawings,
//   density + (density_start - density) (1 - x)^3
// Zhu & Gupta 2017, "To prune, or not to prune", eq. 1: fast while much is
// superfluous, slow in the end.
#pragma once

#include <cstdint>
#include <optional>
#include <string_view>

namespace thinwire {

class MaskSchedule {
 public:
  struct Options {
    std::int64_t dense_steps = 0;
    std::int64_t every = 0;  // 0: drawn once
    std::int64_t until = 0;  // 0: to the end of the run
    double density = 1;
    std::optional<double> density_start{};
  };
  // Throws UsageError in the method's name.
  MaskSchedule(std::string_view method, const Options& options);

  const Options& options() const { return is_; }
  // Everything trains at this step.
  bool dense(std::int64_t step) const { return step < is_.dense_steps; }
  // The first step after `step` at which a mask is drawn; none: never.
  std::optional<std::int64_t> next(std::int64_t step) const;
  // Beside the first of the run, where a phase of another method begins too.
  bool draws_at(std::int64_t step) const;
  // Of the mask that is drawn at `step`; at most 9 digits after the point.
  double density(std::int64_t step) const;

 private:
  // How many drawings follow the first, where `until` is given.
  std::int64_t drawings() const {
    return (is_.until - is_.dense_steps) / is_.every;
  }

  Options is_;
};

}  // namespace thinwire
