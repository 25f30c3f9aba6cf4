// Several deltas of one layout over one backbone, which is held once: each
// answers every sample, and the answers are put to the vote (tasks/vote.h).
#pragma once

#include <memory>
#include <span>
#include <vector>

#include "dist/evaluate.h"
#include "peft/method.h"
#include "tasks/vote.h"

namespace thinwire {

class Ensemble {
 public:
  // members: at least one, alike (peft/delta_arithmetic.h, require_alike()).
  // Attaches them: the first answers. The backbone must outlive it.
  Ensemble(Backbone& backbone, std::vector<std::unique_ptr<Method>>& methods,
           std::vector<Delta> members);

  std::size_t size() const { return members_.size(); }
  // From here on this one answers. O(k).
  void take(std::size_t member);

 private:
  void exchange_with_first(std::size_t member);

  Backbone& backbone_;
  // The first is the one that is attached; it has the numbers of member
  // taken_, which has the first's.
  std::vector<Delta> members_;
  std::size_t taken_ = 0;
};

// Of a folder one record each; of several tasks those that evaluate_tasks()
// makes.
struct EnsembleRecords {
  std::vector<EvalRecord> vote;
  std::vector<std::vector<EvalRecord>> members;
};

// Members' records are those of evaluate(). Block on all ranks; every rank
// returns the same. Two or more members need a task that answers: UsageError
// where it has losses alone.
EnsembleRecords evaluate_ensemble(Communicator& comm, Backbone& backbone,
                                  Task& task, const ShardFolder& folder,
                                  const EvalOptions& options,
                                  Ensemble& ensemble);
EnsembleRecords evaluate_ensemble(Communicator& comm, Backbone& backbone,
                                  Task& task, std::span<const TaskEval> tasks,
                                  const EvalOptions& options,
                                  Ensemble& ensemble);

// In storage order.
std::vector<Vote> predict_ensemble(Communicator& comm, Backbone& backbone,
                                   Task& task, const ShardFolder& folder,
                                   const EvalOptions& options,
                                   Ensemble& ensemble);

}  // namespace thinwire
