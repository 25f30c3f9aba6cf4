// Evaluation and prediction over a whole folder, split over the ranks; every
// rank returns the same metrics.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>

#include "dist/trainer.h"

namespace thinwire {

struct EvalOptions {
  std::int64_t batch_size = 32;
  std::int64_t samples = 0;  // the first so many in storage order; 0: all
  std::function<void(std::int64_t done, std::int64_t of)> progress;
};

// Of gathered rows; without step, split and task.
EvalRecord record_of(const Task& task, std::span<const EvalRow> rows,
                     double seconds);

// Rank r evaluates every P-th batch of the storage order; rows are gathered.
// Blocks on all ranks; an error on one rank is raised on all.
EvalRecord evaluate(Communicator& comm, Backbone& backbone, Task& task,
                    const ShardFolder& folder, const EvalOptions& options);

// All predictions in storage order, on every rank.
std::vector<Prediction> predict(Communicator& comm, Backbone& backbone,
                                Task& task, const ShardFolder& folder,
                                const EvalOptions& options);

// What one sample's evaluation found, and what its prediction says.
struct Answered {
  EvalRow row;
  Prediction prediction;
};
// Both of each sample, in storage order, on every rank; of texts it judges
// evaluation takes the predicted.
std::vector<Answered> evaluate_and_predict(Communicator& comm,
                                           Backbone& backbone, Task& task,
                                           const ShardFolder& folder,
                                           const EvalOptions& options);

}  // namespace thinwire
