// A delta's buffers in checkpoints. Ranks may hold different ones (running
// statistics, residuals of an error-feedback codec), so a checkpoint keeps
// every rank's, as `buffer.RANK.NAME` beside the optimizer's state; a resumed
// run of as many ranks continues with the same bits.
#pragma once

#include <string>

#include "models/safetensors.h"
#include "peft/delta.h"

namespace thinwire {

class Communicator;

// Of all ranks, on every rank; blocks on them. A buffer whose rule says that
// rank 0's counts is in the delta's own file.
NamedTensors gather_buffers(Communicator& comm, const Delta& delta);

// This rank's buffers out of those. With another number of ranks than saved:
// the mean, or the sum on rank 0 and zeros elsewhere, by rule; per-rank buffers
// throw UsageError naming `where`.
void restore_buffers(const NamedTensors& saved, int rank, int ranks,
                     Delta& delta, const std::string& where);

}  // namespace thinwire
