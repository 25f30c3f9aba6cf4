// The seam under every communicator: messages between two ranks. A backend
// supplies this and nothing else; sizes, order, deadlines, errors and byte
// counts are looked after above it (comm/call.h).
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "comm/combine.h"

namespace thinwire {

using SteadyClock = std::chrono::steady_clock;

// 23 bits, the least that MPI implementations in use provide. Travels in the
// envelope of a message, so that it costs no payload byte.
using MessageTag = std::uint32_t;
inline constexpr MessageTag kMaxMessageTag = (1u << 23) - 1;

// One message in flight. Made by a transport, understood by it alone.
struct Ticket {
  std::uintptr_t handle = 0;
  int peer = -1;
  bool receives = false;
  std::byte* data = nullptr;
  std::size_t size = 0;
};

struct MessageResult {
  enum class Status {
    kDone,     // tag and bytes are what really arrived, or what was sent
    kTimeout,  // the message is still in flight
    kFailed,   // the peer or the group is dead: see text
  };
  Status status = Status::kDone;
  MessageTag tag = 0;
  std::size_t bytes = 0;  // may exceed the buffer, which then holds rubbish
  std::string text;
};

class Transport {
 public:
  virtual ~Transport() = default;

  virtual int rank() const noexcept = 0;
  virtual int size() const noexcept = 0;
  virtual std::string_view backend() const noexcept = 0;
  // The longest message; the caller cuts what is longer. Equal on all ranks.
  virtual std::size_t max_message_bytes() const noexcept = 0;

  // Whether more ranks than cores share this host, so that a rank that spins
  // takes the core from those it waits for.
  virtual bool crowded() const noexcept = 0;
  // The host of each rank, by its lowest rank.
  virtual const std::vector<int>& hosts() const noexcept = 0;

  // Start a message and return. Between two ranks messages arrive in the order
  // they were sent; a receive takes the next one whatever its size, of this tag
  // or whatever its tag. The buffer belongs to the transport until the ticket
  // is done or abandoned.
  virtual Ticket send(int to, MessageTag tag,
                      std::span<const std::byte> data) = 0;
  virtual Ticket receive(int from, std::span<std::byte> data) = 0;
  virtual Ticket receive(int from, MessageTag tag,
                         std::span<std::byte> data) = 0;

  // Blocks until the message is done, the deadline has passed, or a failure of
  // the group becomes known.
  virtual MessageResult wait(Ticket& ticket,
                             SteadyClock::time_point deadline) = 0;
  // Whether the message is done or has failed: then `result` says which, and
  // the ticket is spent. Never blocks, and does not look for failures of the
  // group: whoever polls asks failed() from time to time, and rests between
  // polls that found nothing, having waited for so long.
  virtual bool poll(Ticket& ticket, MessageResult& result) = 0;
  virtual bool failed(int peer, SteadyClock::time_point now,
                      std::string& why) = 0;
  virtual void rest(SteadyClock::duration waited) = 0;
  // Whether a message of `from` has arrived that no receive started so far
  // takes; the tag of the oldest of those.
  virtual bool stray(int from, MessageTag& tag) = 0;
  // Gives up a message that will not be waited for again.
  virtual void abandon(Ticket& ticket) noexcept = 0;

  // Peer has let this rank wait past a deadline or, with `odd`, has shown to be
  // in another call: asks all ranks who is to blame. Returns a line, or nothing
  // where ranks cannot ask each other. Blocks for two seconds at most.
  virtual std::string blame(int peer, bool odd) = 0;

  // Tells all other ranks that this one stops, and why: their waits, present
  // and future, end with kFailed and `rank R stopped: why`. The first call
  // counts. Does not block.
  virtual void stop(std::string_view why) noexcept = 0;

  // The library's own all-reduce, where there is one, in place; at most 2^30
  // elements. The ticket's peer is -1. Collective: all ranks call it in turn.
  virtual bool has_all_reduce() const noexcept = 0;
  virtual Ticket start_all_reduce(std::span<std::byte> data, Element element,
                                  ReduceOp op) = 0;

  // Ranks of equal colour form a new transport: `members`, in the order of
  // their new ranks. `call` is the same number on every rank, and different for
  // every split. Collective: the caller has made sure that all arrive.
  virtual std::unique_ptr<Transport> split(std::uint32_t call, int color,
                                           std::span<const int> members) = 0;
};

// One rank, no messages.
std::unique_ptr<Transport> make_self_transport();

class Communicator;

// Hosts of some of the ranks, in their order, each by the lowest place that it
// holds among them.
std::vector<int> hosts_of(const std::vector<int>& hosts,
                          std::span<const int> members);

// A communicator over any transport, with the algorithms of comm/collectives.h.
std::unique_ptr<Communicator> make_communicator_over(
    std::unique_ptr<Transport> transport);

}  // namespace thinwire
