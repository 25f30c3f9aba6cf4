// Who moves what, where every rank moves its own share of the delta: a method
// that deals its numbers out says so in the constants `owner.ENTRY`, int32
// [count], each the worker that moves the number. Entries without one are moved
// by all. Constants are part of the layout's hash, so the ranks agree on the
// union of their shares and on who has which.
#pragma once

#include <ATen/core/Tensor.h>

#include "peft/delta.h"

namespace thinwire {

// bool [size]: what `rank` of `ranks` moves; undefined when nothing was dealt
// out. Throws UsageError when it was, to another number of workers.
at::Tensor owned_numbers(const Delta& delta, int rank, int ranks);

}  // namespace thinwire
