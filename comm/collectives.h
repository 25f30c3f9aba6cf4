// The algorithms, written once over messages (comm/call.h). P ranks, B bytes.
//
//   all_reduce    small: recursive doubling, ceil(log2 P) rounds of B bytes
//                 large: ring, reduce-scatter + all-gather, 2(P-1)/P B bytes
//   all_gather_v  ring, first of the lengths, then of the data
//   broadcast     binomial tree
//   barrier       dissemination, ceil(log2 P) rounds of empty messages
//
// Rabenseifner 2004, "Optimization of collective reduction operations";
// Thakur et al. 2005, "Optimization of collective communication operations in
// MPICH"; Hensgen et al. 1988, "Two algorithms for barrier synchronization".
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "comm/call.h"
#include "comm/combine.h"

namespace thinwire {

// From this size on all_reduce is a ring: below it rounds cost more than bytes.
inline constexpr std::int64_t kRingMinBytes = 16 * 1024;

// In place; data is a whole number of elements. Every rank ends with the same
// bits. scratch: working memory kept between calls, at most 512 KiB.
void all_reduce(Call& call, std::span<std::byte> data, Element element,
                ReduceOp op, std::vector<std::byte>& scratch);

// Payload bytes that `rank` of `ranks` sends in one all_reduce of `bytes`
// bytes, exactly. element: bytes of one element.
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
