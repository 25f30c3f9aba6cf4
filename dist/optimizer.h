// AdamW or SGD over the delta's flat vector, and the state either keeps.
//
// State lies in vectors as long as the delta: AdamW `m` and `v`, SGD with
// momentum `velocity`; `initial` only where a group decays towards its initial
// values; `updates` counts the steps each entry has made, for the bias
// correction, so that an entry that begins to move late starts like any other.
// What is inactive stays bitwise still, state included.
#pragma once

#include <cstdint>
#include <vector>

#include "dist/trainer.h"
#include "models/safetensors.h"
#include "peft/relayout.h"

namespace thinwire {

class Optimizer {
 public:
  Optimizer(const TrainOptions& options, const Delta& delta);

  // One step of every active entry: lr before the groups' factors; scale
  // [groups] multiplies the gradient. Values only; write_back() is the
  // caller's.
  void step(Delta& delta, const std::vector<bool>& active, double lr,
            const std::vector<double>& scale);

  // Shares the storage; to be written before the next step.
  NamedTensors state() const;
  // Throws UsageError naming `where` when the vectors are not those this
  // optimizer keeps, or of another size.
  void load(const NamedTensors& state, const std::string& where);

  // To the next phase's layout. Numbers of an entry share one count: where
  // some of them carry on and some are new, the older count stays.
  void relayout(const Delta& old, const Relayout& to, StatePolicy policy);

  // Forgets the state of numbers that this rank does not move; bool [size].
  void keep_only(const at::Tensor& owned);

 private:
  struct Vector {
    std::string name;
    at::Tensor tensor;  // fp32 [size]
  };
  float* vector(std::string_view name);

  TrainOptions options_;
  bool adamw_;
  std::vector<Vector> vectors_;
  std::vector<std::int64_t> updates_;  // [entries]
};

}  // namespace thinwire
