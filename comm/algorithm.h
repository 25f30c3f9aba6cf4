// Which all-reduce is used, how numbers are coded on the wire, and how both are
// named in configs.
#pragma once

#include <cstdint>
#include <string_view>

namespace thinwire {

// docs/exchange.md has each one's steps and bytes as formulas.
enum class Algorithm {
  kAuto,             // by size and P from the measured link (comm/link_model.h)
  kDoubling,         // recursive doubling: fewest rounds
  kHalvingDoubling,  // Rabenseifner: fewest bytes in log2 P rounds, any P
  kRing,             // fewest bytes in 2(P-1) rounds
  kTwoLevel,         // within hosts, one rank of each between them
  kMpi,              // MPI_Allreduce, the yardstick; backend mpi only
};

enum class Codec {
  kFp32,
  kBf16,  // round to nearest even
  kInt8,  // blocks of 256 with one fp32 scale each
};

// Throw UsageError naming the words that are known.
Algorithm parse_algorithm(std::string_view name);
Codec parse_codec(std::string_view name);
std::string_view name_of(Algorithm algorithm) noexcept;
std::string_view name_of(Codec codec) noexcept;

}  // namespace thinwire
