// When the ranks exchange and what becomes of it: everything between a rank's
// own gradient and its values. Knows neither model nor data.
//
//   every step   gradients are summed, all ranks make the same optimizer step
//   local steps  every rank makes steps of its own; every H steps, and at the
//                end of a phase or run, the differences from the last common
//                values are merged
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "dist/exchange.h"
#include "dist/micro_batches.h"
#include "dist/optimizer.h"

namespace thinwire {

struct StepOutcome {
  StepRecord record;
  // The ranks exchanged: what follows is equal on all of them. Else they made
  // a step each for themselves, and nothing of it is known elsewhere.
  bool exchanged = true;
  bool checkpoint = false, stop = false;  // some rank's TrainRun::request
  // What was not finite, naming tensor and rank: nothing, or what this rank
  // alone moved, was left out. One line for the user beside it.
  std::string nonfinite, warning;
  bool no_weight = false;  // no example of any rank carried loss weight
};

class Policy {
 public:
  // All outlive it. tasks: those that some entry's activity asks about.
  struct Setup {
    const TrainRun& run;
    Delta& delta;
    Optimizer& optimizer;
    Exchange& exchange;
    std::vector<std::int32_t> tasks;
  };
  explicit Policy(Setup setup);
  virtual ~Policy() = default;

  // Between the last forward of a step and its backward.
  virtual void before_backward(std::int64_t index, const at::Tensor& loss) = 0;
  // Blocks where it exchanges. Throws what failed on any rank, on every rank.
  virtual void finish(LocalStep& step, StepOutcome& outcome) = 0;

  // What a checkpoint must hold besides the delta: equal on all ranks, and this
  // rank's own.
  virtual NamedTensors shared_state() const = 0;
  virtual NamedTensors rank_state() const;
  // Both as they were saved. Throws UsageError naming `where`.
  virtual void load(const NamedTensors& shared, const NamedTensors& own,
                    const std::string& where);

  // The vectors [k] of both that outlive a change of the layout, and the same
  // for a new one; those that are missing begin at zero.
  virtual NamedTensors vectors() const { return Policy::rank_state(); }
  virtual void adopt(const NamedTensors& vectors);

  // Exchanges the delta's values with those that all ranks have in common;
  // twice is nothing. False: they are the same.
  virtual bool swap_common() { return false; }

 protected:
  std::uint32_t task_flags(const std::vector<std::int64_t>& samples) const;
  // Of all ranks; samples: of this one.
  std::vector<std::int32_t> tasks_present(
      const Guard& guard, const std::vector<std::int64_t>& samples);
  // Of all methods: their penalty, its gradient in the delta's for gradients of
  // this summed loss weight. Nothing moves at a weight of 0.
  double add_penalties(double weight);
  // Every rank's `mine` that is not empty, as `mine on rank R`; where all are
  // empty, the first entry of the vector that is not finite.
  std::string name_culprits(const std::string& mine, std::string_view vector);

  Setup s_;
  Communicator& comm_;
};

std::unique_ptr<Policy> make_every_step(Policy::Setup setup);
// owned: dist/ownership.h.
std::unique_ptr<Policy> make_local_steps(Policy::Setup setup, at::Tensor owned);

}  // namespace thinwire
