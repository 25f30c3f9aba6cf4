// One segment on its way through its schedule. Never blocks: whoever owns it
// calls advance() until it has landed.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "comm/algorithm.h"
#include "comm/combine.h"
#include "comm/reducer.h"
#include "comm/schedule.h"
#include "comm/transport.h"

namespace thinwire {

// What a flight carries and how. What it points to outlives the flight.
struct Cargo {
  std::byte* data = nullptr;  // count numbers, summed in place
  std::int64_t count = 0;
  Element element = Element::kFloat32;
  ReduceOp op = ReduceOp::kSum;
  Codec codec = Codec::kFp32;  // another one: fp32 sums only
  // count numbers, added first, then what rounding leaves; null: it is lost.
  float* rest = nullptr;
  Guard* guard = nullptr;  // becomes what all said, where one rides along
  bool library = false;    // the transport's own all-reduce, no rounds
  std::span<const Round> rounds{};
};

class Flight {
 public:
  explicit Flight(Transport& transport) : transport_(transport) {}
  Flight(const Flight&) = delete;
  Flight& operator=(const Flight&) = delete;
  ~Flight() { abandon(); }

  // Room for messages and for segments of such a length (bytes; numbers of the
  // codec with the longest code), kept until more is needed.
  void reserve(std::size_t message, std::size_t code);

  void start(const Cargo& cargo, MessageTag tag);
  // Goes on as far as it can; whether anything has happened. bytes: gains what
  // was sent and received.
  bool advance(ByteCount& bytes);
  bool landed() const noexcept { return landed_; }
  // Why it will not land: with the peer, for "rank 0 waited for …". Empty: no.
  const std::string& problem() const noexcept { return problem_; }

  // Whose message or acceptance it waits for; -1: all ranks (library).
  int peer() const noexcept;
  bool receives() const noexcept { return receiving_; }
  std::int64_t awaited_bytes() const noexcept {
    return static_cast<std::int64_t>(in_.size);
  }
  MessageTag tag() const noexcept { return tag_; }

  void abandon() noexcept;

 private:
  void post(const Round& round, ByteCount& bytes);
  void arrive(const Round& round);
  void arrive_guard(const Round& round);
  bool take_in(ByteCount& bytes);
  bool take_out();

  // Whether a message holds code rather than numbers.
  bool is_code(const Message& message) const noexcept {
    return message.coded && cargo_.codec != Codec::kFp32;
  }
  std::size_t bytes_of(const Message& message) const noexcept;
  // Where a message without a guard lies in data or code.
  std::byte* home_of(const Message& message) noexcept;
  std::span<float> numbers(Range range) const noexcept;

  Transport& transport_;
  Cargo cargo_;
  MessageTag tag_ = 0;
  Guard said_;
  std::size_t round_ = 0;
  bool landed_ = true, posted_ = false;
  bool sending_ = false, receiving_ = false;
  Ticket in_, out_;
  std::vector<std::byte> arrived_, parting_;  // messages that need a place
  std::vector<std::byte> code_;               // of the whole segment
  std::string problem_;
};

}  // namespace thinwire
