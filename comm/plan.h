// How a vector is exchanged by one rank: cut into segments short enough for the
// transport, each with a schedule; several segments are in flight at once, so
// that the next is on its way while one is added. A pure function.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "comm/algorithm.h"
#include "comm/schedule.h"

namespace thinwire {

struct PlanShape {
  Algorithm algorithm = Algorithm::kRing;  // not kAuto
  Codec codec = Codec::kFp32;
  int ranks = 1, rank = 0;
  std::vector<int> hosts{};  // of each rank (Transport::hosts)
  std::int64_t number = 4;   // bytes of a number; 4 where codec is not fp32
  std::int64_t count = 0;    // numbers
  bool guard = false;        // rides in the last segment's messages
  std::int64_t longest_message = 1 << 20;  // Transport::max_message_bytes
};

struct Segment {
  Range range{};
  std::size_t schedule = 0;
};

struct Plan {
  std::vector<Segment> segments{};  // in the order of the vector
  // Ranges count from the segment's begin. kMpi: empty, the library does it.
  std::vector<std::vector<Round>> schedules{};
  std::int64_t longest_message = 0;  // bytes, of those it has
  std::int64_t longest_segment = 0;  // numbers
};

Plan make_plan(const PlanShape& shape);

// Bytes that the rank hands to the transport and gets from it; with kMpi those
// handed to the library.
ByteCount plan_bytes(const Plan& plan, const PlanShape& shape);

}  // namespace thinwire
