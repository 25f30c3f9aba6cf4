// What a run will train, as far as that can be known without the run.
#pragma once

#include <string>

#include "launch/open_run.h"
#include "peft/delta.h"

namespace thinwire {

struct ForeseenDelta {
  Delta delta;
  std::string masks;  // where its masks are from, a few words; "": from the
                      // config alone, or it has none
};

// Floating-point operations that scoring may make.
inline constexpr double kScoringBudget = 6e11;

// The newest delta in `folder` (a run's, "": none), if the config's methods
// made it and nothing declared at step 0 is larger, as a dense warm-up is. Else
// what the methods declare: those that score examples are shown the first few
// of the run's own, as many as `budget` allows. Where that is none, or the run
// has no data, masks count as spread evenly over all numbers. On this rank
// alone. Throws what opening the delta and declaring throw.
ForeseenDelta foresee_delta(OpenRun& run, const std::string& folder,
                            double budget);

}  // namespace thinwire
