// AdamW or SGD over the delta's flat vector, and the state either keeps.
//
// State lies in vectors as long as the delta: AdamW `m` and `v`, SGD with
// momentum `velocity`; `initial` only where a group decays towards its initial
// values. For the bias correction `updates` counts the steps each entry has
// made, and where numbers of one entry began at different steps, as after a
// mask was drawn anew, `correction1` and `correction2` keep it for every number:
// whatever begins to move late starts like any other. What is inactive stays
// bitwise still, state included.
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

  // To the next phase's layout.
  void relayout(const Delta& old, const Relayout& to, StatePolicy policy);

  // Until the next relayout() this rank moves these numbers alone, bool [size]:
  // forgets the state of all others.
  void keep_only(at::Tensor owned);

 private:
  struct Vector {
    std::string name;
    at::Tensor tensor;  // fp32 [size]
  };
  float* vector(std::string_view name);
  void add_corrections(const Delta& delta);
  void drop_corrections();
  void forget_others();

  TrainOptions options_;
  bool adamw_;
  std::vector<Vector> vectors_;
  std::vector<std::int64_t> updates_;  // [entries], of its oldest number
  at::Tensor owned_;                   // bool [size]; undefined: all
};

}  // namespace thinwire
