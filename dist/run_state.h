// Where a run stands: everything besides delta and optimizer that the next step
// depends on. Saved in checkpoints as state.json.
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "dist/exchange.h"
#include "dist/trainer.h"

namespace thinwire {

struct RunState {
  std::int64_t step = 0;        // steps made, skipped ones included
  std::int64_t phase_step = 0;  // `step` when the layout in use was declared
  std::int64_t samples = 0;     // of all ranks: the place in the data order
  std::int64_t skipped = 0;     // non-finite steps in all
  std::int64_t skipped_in_row = 0;
  std::int64_t stale = 0;                // evaluations since the best one
  std::int64_t eval_step = -1;           // of the last evaluation, -1: none yet
  std::vector<std::int64_t> sent_bytes;  // [ranks], by the ranks of the past
  std::optional<EvalRecord> first, last, best;
  Tuned tuned;
};

nlohmann::ordered_json to_json(const RunState& state);
// Throws UsageError naming `where` and the key.
RunState run_state_from_json(const nlohmann::ordered_json& json,
                             const std::string& where);

// Follows one metric: best/ and early stop.
class BestMetric {
 public:
  // "": the task's own; of several tasks, the average of theirs. `loss` is
  // better when lower, all others when higher.
  BestMetric(const std::string& name, const Task& task, bool several = false);

  // Sets record.best and updates state.best and state.stale. Throws UsageError
  // listing the metrics when there is none of that name. NaN is never best.
  void judge(EvalRecord& record, RunState& state) const;

 private:
  std::string name_;
};

}  // namespace thinwire
