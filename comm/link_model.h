// What a message costs between the ranks of a communicator: alpha seconds to
// start, beta seconds a byte, gamma seconds a byte summed. Measured at start by
// all ranks together; rank 0's figures count, are saved in checkpoints and
// reused on resume. The cost formulas are those of Thakur et al. 2005.
#pragma once

#include <cstdint>
#include <span>

#include "comm/algorithm.h"

namespace thinwire {

class Communicator;

struct LinkModel {
  double alpha = 0, beta = 0, gamma = 0;
  bool operator==(const LinkModel&) const = default;
};

// Where nothing was measured (all zero): a network of 20 us and 1 GB/s.
LinkModel or_planning_values(const LinkModel& link) noexcept;

// Small messages, then ever longer ones around the ring of ranks, until about
// `seconds` have passed or a rank has received 1 MB: the last ones count, so
// that what a link's buffers swallow at first does not. Blocks on all ranks;
// equal on all ranks.
LinkModel measure_link(Communicator& comm, double seconds = 0.2);

// Seconds of one all-reduce of so many bytes on the wire. Neither kAuto nor
// kMpi; kTwoLevel as on one host.
double predict_seconds(const LinkModel& link, Algorithm algorithm, int ranks,
                       std::int64_t bytes);
// From this size on only algorithms that move the fewest bytes are chosen.
inline constexpr std::int64_t kFewestBytesFrom = 16 * 1024;

// The fastest of doubling, halving_doubling and ring; two_level for what is not
// small where several hosts hold equally many ranks, two or more, and
// halving_doubling would not keep most bytes within them. hosts:
// Transport::hosts; empty: all one.
Algorithm choose_algorithm(const LinkModel& link, int ranks, std::int64_t bytes,
                           std::span<const int> hosts = {});
// Bytes of a bucket whose start-up costs a tenth of its transfer, at most
// total_bytes.
std::int64_t choose_bucket_bytes(const LinkModel& link, int ranks,
                                 std::int64_t total_bytes);

}  // namespace thinwire
