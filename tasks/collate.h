// From samples to packed streams, and what every task kind checks on the way.
// Internal to tasks/.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "base/sample.h"
#include "models/backbone.h"
#include "tasks/task.h"

namespace thinwire {

// The encoder side, task and sample ids. Throws UsageError naming sample id,
// value and range where a token is outside the vocabulary, a segment id
// outside its table, or an input is empty or longer than the model takes.
BackboneInput collate_inputs(std::span<const Sample> samples,
                             const ModelConfig& config);

// The decoder side: targets int64 as labels, and the same shifted right behind
// the start token as decoder tokens.
void collate_targets(std::span<const Sample> samples, const ModelConfig& config,
                     BackboneInput& in);

// The same with several answers a sample (Sample::choices), each a sequence;
// labels are the right ones' numbers [B].
void collate_choices(std::span<const Sample> samples, const ModelConfig& config,
                     BackboneInput& in);

struct EvalRows {
  std::vector<double> labels, predictions;
  double loss = 0;  // sum / weight
};
EvalRows split_rows(std::span<const EvalRow> rows);

std::vector<double> to_doubles(const at::Tensor& x);

}  // namespace thinwire
