// From methods to a delta and its place in the backbone.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "dist/schedule.h"
#include "dist/trainer.h"

namespace thinwire {

// Before it is attached: the delta's leaves where the backbone's weights are,
// if that is not the CPU's memory; apart: in memory of their own even so.
void place_delta(const Backbone& backbone, Delta& delta, bool apart = false);

// Declares, agrees, binds and attaches all methods: what run_training does
// before step 1 and `eval`, `predict`, `mask`, `inspect` do alone. scoring may
// be null (counts only).
Delta declare_delta(Backbone& backbone,
                    std::vector<std::unique_ptr<Method>>& methods,
                    const DeclareContext& context);
void attach_delta(Backbone& backbone,
                  std::vector<std::unique_ptr<Method>>& methods,
                  const Delta& delta);

// The first step after `step` at which some method declares anew; INT64_MAX:
// none does.
std::int64_t phase_end(const std::vector<std::unique_ptr<Method>>& methods,
                       std::int64_t step);

// The steps around `step`, of a run of `steps`, in which nothing is rewound:
// what a schedule and the search for the best values extend over.
Stretch stretch_of(const std::vector<std::unique_ptr<Method>>& methods,
                   std::int64_t step, std::int64_t steps);
// Throws UsageError where a method rewinds when no step is left, or another's
// phase would write over what it returns to.
void check_rewinds(const std::vector<std::unique_ptr<Method>>& methods,
                   std::int64_t steps);
// What to tell the user of the methods whose next phase the run of `steps` is
// too short to begin; empty: there is none.
std::string phases_out_of_reach(
    const std::vector<std::unique_ptr<Method>>& methods, std::int64_t steps);

// Scoring over the run's training data, for declare_delta (`mask`, trainer).
// alone: every rank scores all examples, so that sums do not depend on how many
// ranks there are; else each its part.
std::unique_ptr<Scoring> make_scoring(Communicator& comm, Backbone& backbone,
                                      Task& task,
                                      std::shared_ptr<const ShardFolder> train,
                                      std::uint64_t data_seed,
                                      TrainObserver* observer,
                                      bool alone = false);

}  // namespace thinwire
