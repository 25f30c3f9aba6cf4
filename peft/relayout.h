// From one layout to the next, between two phases and nowhere else.
//
// What trained before and does not train now keeps its value: it becomes a
// residue, a constant of the new delta (`residue.TARGET` dense, or
// `residue.TARGET.index` + `.values` sparse) that bind() writes into the frozen
// weights, so that delta + backbone file still give the whole model. What
// trains now and did not before starts from the current effective weight.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <string_view>

#include "peft/delta.h"

namespace thinwire {

// What becomes of optimizer states: kept where the number trains on (carry),
// zeroed everywhere (reset), kept where nothing changed in the entry and zeroed
// in entries whose support changed (drop), and rewind: as reset, and values
// return to those of `start`.
enum class StatePolicy { kCarry, kReset, kDrop, kRewind };
StatePolicy parse_state_policy(std::string_view name);  // UsageError

struct Relayout {
  Delta delta;  // the new one: values mapped, residues in constants
  // int64 [new size]: where each number lay in the old vector, -1: nowhere.
  at::Tensor source;
};

// `next` is what the methods declared on the current weights (Delta::unbind).
// Rewinding: `old` is then the run's first delta, with its initial values.
// Throws UsageError when a tensor of a method's own would be lost.
Relayout relayout(const Delta& old, Delta next);

// A flat optimizer state [old size] mapped to [new size], zeros where source
// is -1 (and where the policy says so).
at::Tensor map_state(const at::Tensor& state, const Delta& old,
                     const Relayout& to, StatePolicy policy);

}  // namespace thinwire
