// What the envelope of a message says: which call it belongs to, so that ranks
// that fall out of step notice at the next message, at no byte's cost.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

#include "comm/transport.h"

namespace thinwire {

enum class CallKind : std::uint32_t {
  kAllReduce,
  kAllGather,
  kBroadcast,
  kBarrier,
  kSplit,
  kExchange,
};

std::string_view name_of(CallKind kind) noexcept;

// A call whose messages follow each other. number: how many calls the
// communicator made before; its low 20 bits count.
MessageTag call_tag(CallKind kind, std::uint32_t number) noexcept;

// A call (kAllReduce, kExchange) of several flights at once, whose low 10 bits
// count, like those of the call's number.
MessageTag flight_tag(CallKind kind, std::uint64_t number,
                      std::size_t flight) noexcept;
bool same_call(MessageTag flight, MessageTag other) noexcept;

// `barrier (call 5)`, `exchange 1025`. near: a number of the sender's recent
// past or future, of which the envelope holds the low bits only.
std::string describe(MessageTag tag, std::uint64_t near = 0);

}  // namespace thinwire
