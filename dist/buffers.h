// A delta's buffers in checkpoints. Ranks may hold different ones (running
// statistics, residuals of an error-feedback codec), so a checkpoint keeps
// every rank's, as `buffer.RANK.NAME` beside the optimizer's state; a resumed
// run of as many ranks continues with the same bits.
#pragma once

#include <ATen/core/Tensor.h>

#include <string>
#include <string_view>

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

// What each rank has for itself besides (an optimizer's state between merges, a
// codec's residual): `mine` of all ranks as `rank.RANK.NAME`, on every rank;
// and back. Names and sizes are equal on all.
NamedTensors gather_ranks(Communicator& comm, const NamedTensors& mine);
// Throws UsageError naming `where` when they were saved by other than `ranks`
// ranks.
NamedTensors of_rank(const NamedTensors& saved, int rank, int ranks,
                     const std::string& where);

// Throws UsageError naming `where` and `keys`, the settings it belongs to, when
// it is not there, or of another type or size.
at::Tensor find_state(const NamedTensors& saved, std::string_view name,
                      at::ScalarType type, std::int64_t count,
                      const std::string& where, std::string_view keys);

}  // namespace thinwire
