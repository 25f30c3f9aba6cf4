// The loop of a search (dist/bilevel.h) over a run's data: modules learn on
// `train`, gates on `valid`, over all ranks.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

#include "data/shard_folder.h"
#include "dist/search_options.h"
#include "dist/trainer.h"
#include "peft/gated_modules.h"

namespace thinwire {

class Communicator;

struct SearchRecord {
  std::int64_t step = 0, steps = 0;
  double train_loss = 0, valid_loss = 0;  // means over all ranks' examples
};

struct SearchRun {
  Communicator* comm;
  Backbone* backbone;  // head already added
  Digest identity;     // as loaded
  Task* task;
  GatedModules* modules;
  std::shared_ptr<const ShardFolder> train, valid;
  // Steps, optimizer, schedule (of both learning rates) and seeds. Gradients
  // are exchanged in fp32 in every pass, whatever `exchange` says.
  TrainOptions options;
  SearchOptions search;
  std::function<void(const SearchRecord&)> on_step = nullptr;
};

struct SearchResult {
  std::vector<int> kept;     // modules, by their numbers
  std::int64_t numbers = 0;  // that they have
  std::int64_t budget = 0;
  std::vector<double> probabilities;  // of all modules
};

// Blocks on all ranks, which get the same result. Throws UsageError before the
// first step, IoError, CommError, or Error where a gradient is not finite.
SearchResult run_search(SearchRun& run);

}  // namespace thinwire
