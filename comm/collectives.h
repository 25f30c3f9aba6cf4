// The collectives that are not reductions, over messages (comm/call.h). P
// ranks.
//
//   all_gather_v  ring, first of the lengths, then of the data
//   broadcast     binomial tree
//   barrier       dissemination, ceil(log2 P) rounds of empty messages
//
// Hensgen et al. 1988, "Two algorithms for barrier synchronization".
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "comm/call.h"

namespace thinwire {

// Payload bytes that `rank` of `ranks` on one host sends in one all_reduce of
// `bytes` bytes where nothing was measured, exactly. element: bytes of one.
std::int64_t all_reduce_bytes_sent(int ranks, int rank, std::int64_t bytes,
                                   std::int64_t element = 4);

std::vector<std::vector<std::byte>> all_gather_v(
    Call& call, std::span<const std::byte> data);

// In place, of a size all ranks know.
void broadcast(Call& call, std::span<std::byte> data, int root);
// Only the root knows the size; 8 bytes more.
std::vector<std::byte> broadcast_bytes(Call& call,
                                       std::span<const std::byte> data,
                                       int root);

void barrier(Call& call);

}  // namespace thinwire
