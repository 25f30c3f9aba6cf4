// Residues: what earlier phases trained and this one does not, kept as
// constants of the delta. `residue.TARGET` holds a whole tensor,
// `residue.TARGET.index` and `residue.TARGET.values` some of its numbers.
// Internal to delta.cpp and relayout.cpp.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <map>
#include <string>

#include "peft/delta.h"

namespace thinwire {

// The flat positions of an entry's numbers in its tensor, ascending.
class Positions {
 public:
  explicit Positions(const DeltaEntry& e);
  explicit Positions(const at::Tensor& index);
  std::int64_t size() const { return size_; }
  std::int64_t operator[](std::int64_t i) const {
    if (narrow_ != nullptr) return narrow_[i];
    return wide_ != nullptr ? wide_[i] : i;
  }

 private:
  std::int64_t size_;
  const std::int32_t* narrow_ = nullptr;
  const std::int64_t* wide_ = nullptr;
};

struct Residue {
  at::Tensor index;   // undefined: the whole tensor
  at::Tensor values;  // fp32, of the tensor's shape or [k]
};

// By target.
std::map<std::string, Residue> residues(
    const std::map<std::string, at::Tensor>& constants);

// Into next's constants: what `old` trained or held as residues, less what
// `next` trains.
void carry_residues(const Delta& old, Delta& next);

}  // namespace thinwire
