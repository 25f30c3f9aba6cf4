// From one layout to the next, between two phases and nowhere else.
//
// What trained before and does not train now keeps its value: it becomes a
// residue, a constant of the new delta (`residue.TARGET` dense, or
// `residue.TARGET.index` + `.values` sparse) that bind() writes into the frozen
// weights, so that delta + backbone file still give the whole model. What
// trains now and did not before starts from the current effective weight. So it
// is inside tensors of methods' own: what a mask leaves out rests
// (rest_constant()). Or everything is rewound, and nothing of what trained is
// kept.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <string_view>

#include "peft/delta.h"

namespace thinwire {

class Parameters;

// What becomes of optimizer states: kept where the number trains on (carry),
// zeroed everywhere (reset), kept where nothing changed in the entry and zeroed
// in entries whose support changed (drop); rewind: as reset, where values
// return to those of the start.
enum class StatePolicy { kCarry, kReset, kDrop, kRewind };
StatePolicy parse_state_policy(std::string_view name);  // UsageError

struct Relayout {
  Delta delta;  // the new one: values mapped, residues in constants
  // int64 [new size]: where each number lay in the old vector, -1: nowhere.
  at::Tensor source;
};

// `next` is what the methods declared on the current weights (Delta::unbind).
// Throws UsageError when a tensor of a method's own would be lost.
Relayout relayout(const Delta& old, Delta next);

// The frozen weights as they were at the start of the run, so that methods may
// declare on them: what trains whole has left them alone. Throws UsageError
// where `old` trains, or an earlier phase trained, some numbers of a tensor: a
// mask writes over what it began from.
void rewind(const Delta& old, Parameters& parameters);
// `next` is what the methods declared on those.
Relayout rewound(Delta next);

// A flat optimizer state [old size] mapped to [new size], zeros where source
// is -1 (and where the policy says so).
at::Tensor map_state(const at::Tensor& state, const Delta& old,
                     const Relayout& to, StatePolicy policy);

}  // namespace thinwire
