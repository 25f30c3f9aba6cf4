// AdamW, SGD, Lion or Adafactor over the delta's flat vector, and the state it
// keeps.
//
// State lies in vectors as long as the delta: AdamW `m` and `v`, SGD with
// momentum `velocity`, Lion `momentum`, Adafactor with beta1 `mean`, and its
// second moments beside it (dist/adafactor.h); `initial` only where a group
// decays towards its initial values. `updates` counts the steps each entry has
// made, for AdamW's bias correction and Adafactor's decay; where numbers of one
// entry began at different steps, as after a mask was drawn anew,
// `correction1` and `correction2`, or `age`, keep it for every number: whatever
// begins to move late starts like any other. What is inactive stays bitwise
// still, state included.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "dist/adafactor.h"
#include "dist/trainer.h"
#include "models/safetensors.h"
#include "peft/relayout.h"

namespace thinwire {

class Optimizer {
 public:
  Optimizer(const TrainOptions& options, const Delta& delta);

  // One step of every active entry: lr before the groups' factors; scale
  // [groups] multiplies the gradient. Masked values go into the weights of
  // `into` as they are made; null: values only, write_back() is the caller's.
  void step(Delta& delta, const std::vector<bool>& active, double lr,
            const std::vector<double>& scale, Parameters* into = nullptr);

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
  enum class Rule { kAdamw, kSgd, kLion, kAdafactor };
  // Neighbours that are treated alike.
  struct Range {
    std::size_t first, last;              // entries
    std::int64_t at, n;                   // numbers
    double lr, decay, scale;              // with the group's factors
    bool to_initial;                      // decays to it
    std::span<const MaskedWrite> writes;  // begin at `at`
  };

  float* vector(std::string_view name);
  void add_vector(const char* name);  // zeros
  void step_range(Delta& delta, const Range& range);
  void step_entry(Delta& delta, const Range& range);  // Adafactor
  // Numbers of one entry may have begun at different steps.
  bool by_number() { return vector("correction1") || vector("age"); }
  at::Tensor counts(const Delta& delta);
  void add_corrections(const Delta& delta);
  void drop_ages();
  void forget_others();

  TrainOptions options_;
  Rule rule_;
  double beta1_, beta2_;
  std::int64_t size_;
  std::vector<Vector> vectors_;
  std::optional<AdafactorMoments> moments_;
  std::vector<std::int64_t> updates_;  // [entries], of its oldest number
  at::Tensor owned_;                   // bool [size]; undefined: all
};

}  // namespace thinwire
