// Adafactor's second moments: of a dense entry with two dimensions or more one
// number per row and one per column of its last two, of every other entry one
// per number. A masked entry is what trains of its tensor, taken as a vector.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <span>
#include <vector>

#include "models/safetensors.h"
#include "ops/adafactor_pass.h"
#include "peft/relayout.h"

namespace thinwire {

class AdafactorMoments {
 public:
  explicit AdafactorMoments(const Delta& delta);  // zeros

  // One step of entry e. m, ages, initial: fp32 [size] or null.
  void step(Delta& delta, std::size_t e, float* m, const float* ages,
            const float* initial, const AdafactorStep& s,
            std::span<const MaskedWrite> writes);

  // "square" (one per number), "row" and "column"; shares the storage.
  NamedTensors tensors() const;

  // To the next layout. Returns per entry of it whether its moments came along;
  // else they are zero. Of a vector that may be a part, by the policy.
  std::vector<bool> relayout(const Delta& old, const Relayout& to,
                             StatePolicy policy);

  // Zeros where keep, bool [size], is false; matrices stay as they are.
  void forget(const bool* keep);

 private:
  struct Place {
    std::int64_t offset = 0, count = 0;  // in the delta
    bool factored = false;
    std::int64_t matrices = 1, rows = 1, columns = 1;
    std::int64_t square = 0, row = 0, column = 0;  // where its numbers begin
  };
  at::Tensor spread(std::int64_t size) const;  // square as fp32 [size]

  std::vector<Place> places_;  // by entry
  at::Tensor square_, row_, column_;
};

}  // namespace thinwire
