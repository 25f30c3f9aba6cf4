// All-reduce algorithms as data: what one rank sends, receives and adds, round
// by round. Pure functions of their arguments, so that bytes are known and
// tested without a message; comm/flight.h carries them out.
//
//   doubling          recursive doubling: the whole range to one partner a
//   round halving_doubling  halves to ever farther partners, then doubling
//   back;
//                     consecutive ranks first, so that most bytes stay near
//   ring              P chunks go round once to be added, once to be spread
//   two_level         chunks are added within each host, then between the
//   hosts,
//                     then spread within each host
//
// P not a power of two: doubling and halving_doubling fold the ranks beyond it
// into a neighbour, which hands them the result. Every chunk has one owner who
// adds it last, seals it (encodes it once) and spreads those bytes, so that all
// ranks hold the same bits whatever the codec; in doubling both partners add
// both encoded forms.
//
// Rabenseifner 2004, "Optimization of collective reduction operations"; Thakur
// et al. 2005, "Optimization of collective communication operations in MPICH".
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "comm/algorithm.h"
#include "comm/communicator.h"

namespace thinwire {

// Numbers [begin, begin + count) of what is exchanged.
struct Range {
  std::int64_t begin = 0, count = 0;
  std::int64_t end() const { return begin + count; }
  bool operator==(const Range&) const = default;
};

// peer -1: no message. A coded message has the bytes of the sealed range, a raw
// one the numbers as they are.
struct Message {
  int peer = -1;
  Range range{};
  bool coded = false;
  bool guard = false;  // the guard's bytes go first
};

enum class Arrival {
  kAdd,      // range = range op message; lower rank first
  kReplace,  // range = message
};

// What becomes of the guard that a message brings.
enum class GuardRule {
  kIgnore,
  kCombine,     // sum = sum + message, lower rank first
  kAddOwn,      // sum = message + what this rank said itself
  kReplaceSum,  // sum = message
};

// In this order: settle, seal, then both messages, then what arrived.
struct Round {
  bool settle = false;  // the guard's sum so far counts as what this rank said
  Range seal{};         // encode, and go on with what that decodes to
  bool keeps_error = false;  // this rank keeps the rest that sealing left
  Message out{}, in{};
  bool own_guard = false;  // send what this rank said, not the sum so far
  Arrival arrival = Arrival::kAdd;
  GuardRule guard_rule = GuardRule::kIgnore;
};

struct ScheduleShape {
  Algorithm algorithm = Algorithm::kRing;  // neither kAuto nor kMpi
  int ranks = 1, rank = 0;
  std::int64_t count = 0;        // numbers
  std::int64_t grain = 1;        // chunks begin at multiples of this
  bool guard = false;            // a guard rides along
  std::span<const int> hosts{};  // of each rank (Transport::hosts), two_level
};

std::vector<Round> make_schedule(const ScheduleShape& shape);

// Payload bytes of its messages. number: bytes of a raw number.
ByteCount schedule_bytes(std::span<const Round> rounds, Codec codec,
                         std::int64_t number = 4);
std::int64_t message_bytes(const Message& message, Codec codec,
                           std::int64_t number);

}  // namespace thinwire
