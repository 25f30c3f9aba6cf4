// The buckets of a reducer as legs of its fleet: plans by bucket, in the order
// in which they are sent, with the guard at the head of the last leg's messages
// (algorithm mpi: in a flight of its own before all others).
#pragma once

#include <cstddef>
#include <memory>
#include <vector>

#include "comm/fleet.h"
#include "comm/plan.h"
#include "comm/reducer.h"

namespace thinwire {

struct Manifest {
  std::vector<std::unique_ptr<PlanShape>> shapes{};  // what plans were made of
  std::vector<std::unique_ptr<Plan>> plans{};        // legs point into these
  std::vector<Leg> legs{};
  std::vector<std::size_t> ends{};  // by bucket: the number of legs up to it
  std::size_t longest_message = 0, longest_code = 0;  // bytes
  bool guard_first = false;
};

// shape: ranks, rank, hosts and longest message. data, rest (or null): of the
// whole vector; guard: what the last leg brings along.
Manifest make_manifest(const ReducerOptions& options, const PlanShape& shape,
                       std::byte* data, float* rest, Guard* guard);

// What one exchange of it moves, as handed to the transport and got from it.
ByteCount manifest_bytes(const Manifest& manifest);

}  // namespace thinwire
