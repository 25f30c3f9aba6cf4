#include "comm/flight.h"

#include <fmt/format.h>

#include <cstring>
#include <utility>

#include "base/error.h"
#include "comm/codec.h"

namespace thinwire {

void Flight::reserve(std::size_t message, std::size_t code) {
  THINWIRE_ASSERT(landed_, "tag {}", tag_);
  if (arrived_.size() < message) {
    arrived_.resize(message);
    parting_.resize(message);
  }
  if (code_.size() < code) code_.resize(code);
}

void Flight::start(const Cargo& cargo, MessageTag tag) {
  THINWIRE_ASSERT(landed_, "tag {}", tag_);
  cargo_ = cargo;
  tag_ = tag;
  if (cargo.guard != nullptr) said_ = *cargo.guard;
  if (cargo.rest != nullptr) {
    const auto all = numbers({0, cargo.count});
    for (std::size_t i = 0; i < all.size(); ++i) {
      all[i] += std::exchange(cargo.rest[i], 0.0f);
    }
  }
  round_ = 0;
  landed_ = posted_ = sending_ = receiving_ = false;
}

bool Flight::advance(ByteCount& bytes) {
  if (landed_ || !problem_.empty()) return false;
  if (cargo_.library && !posted_ && transport_.size() > 1) {
    const std::size_t size =
        static_cast<std::size_t>(cargo_.count) * element_bytes(cargo_.element);
    out_ = transport_.start_all_reduce({cargo_.data, size}, cargo_.element,
                                       cargo_.op);
    bytes.sent += static_cast<std::int64_t>(size);
    bytes.received += static_cast<std::int64_t>(size);
    posted_ = sending_ = true;
  }
  bool moved = false;
  if (cargo_.library && sending_) {
    if (!take_out()) return false;
    moved = true;
  }
  for (; round_ < cargo_.rounds.size(); ++round_) {
    const Round& round = cargo_.rounds[round_];
    if (!posted_) {
      post(round, bytes);
      posted_ = moved = true;
    }
    if (receiving_ && take_in(bytes)) moved = true;
    if (sending_ && take_out()) moved = true;
    if (!problem_.empty()) return true;
    if (sending_ || receiving_) return moved;
    arrive(round);
    posted_ = false;
  }
  landed_ = true;
  return true;
}

// The receive goes first, so that the message finds its place, and before what
// takes time.
void Flight::post(const Round& round, ByteCount& bytes) {
  if (round.settle && cargo_.guard != nullptr) said_ = *cargo_.guard;
  if (round.in.peer >= 0) {
    const bool home = round.arrival == Arrival::kReplace && !round.in.guard;
    in_ = transport_.receive(
        round.in.peer, tag_,
        {home ? home_of(round.in) : arrived_.data(), bytes_of(round.in)});
    receiving_ = true;
  }
  if (cargo_.codec != Codec::kFp32 && round.seal.count > 0) {
    float* rest = cargo_.rest != nullptr && round.keeps_error
                      ? cargo_.rest + round.seal.begin
                      : nullptr;
    seal(cargo_.codec, numbers(round.seal),
         code_.data() + encoded_bytes(cargo_.codec, round.seal.begin), rest);
  }
  if (round.out.peer >= 0) {
    const std::size_t size = bytes_of(round.out);
    std::byte* from = home_of(round.out);
    if (round.out.guard) {
      const Guard& guard = round.own_guard ? said_ : *cargo_.guard;
      std::memcpy(parting_.data(), &guard, sizeof guard);
      if (size > sizeof guard) {
        std::memcpy(parting_.data() + sizeof guard, from, size - sizeof guard);
      }
      from = parting_.data();
    }
    out_ = transport_.send(round.out.peer, tag_, {from, size});
    bytes.sent += static_cast<std::int64_t>(size);
    sending_ = true;
  }
}

bool Flight::take_in(ByteCount& bytes) {
  MessageResult result;
  if (!transport_.poll(in_, result)) return false;
  receiving_ = false;
  if (result.status == MessageResult::Status::kFailed) {
    problem_ = fmt::format("rank {} waited for rank {}, but {}",
                           transport_.rank(), in_.peer, result.text);
  } else if (result.bytes != in_.size) {
    problem_ = fmt::format(
        "the ranks do not pass the same size: rank {} expected a message of {} "
        "bytes from rank {}, got {}",
        transport_.rank(), in_.size, in_.peer, result.bytes);
  } else {
    bytes.received += static_cast<std::int64_t>(result.bytes);
  }
  return true;
}

bool Flight::take_out() {
  MessageResult result;
  if (!transport_.poll(out_, result)) return false;
  sending_ = false;
  if (result.status != MessageResult::Status::kFailed) return true;
  problem_ = fmt::format("rank {} could not send to rank {}: {}",
                         transport_.rank(), out_.peer, result.text);
  return false;
}

void Flight::arrive(const Round& round) {
  if (round.in.peer < 0) return;
  const Range range = round.in.range;
  const std::byte* payload = arrived_.data();
  if (round.in.guard) {
    arrive_guard(round);
    payload += sizeof(Guard);
  }
  if (range.count == 0) return;
  const bool low = round.in.peer < transport_.rank();
  if (round.arrival == Arrival::kAdd) {
    if (is_code(round.in)) {
      decode_add(cargo_.codec, payload, numbers(range), low);
      return;
    }
    const std::size_t number = element_bytes(cargo_.element);
    std::byte* mine =
        cargo_.data + static_cast<std::size_t>(range.begin) * number;
    combine(cargo_.op, cargo_.element, low ? payload : mine,
            low ? mine : payload, mine, static_cast<std::size_t>(range.count));
    return;
  }
  std::byte* home = home_of(round.in);
  if (round.in.guard) {
    std::memcpy(home, payload, bytes_of(round.in) - sizeof(Guard));
  }
  if (is_code(round.in)) decode(cargo_.codec, home, numbers(range));
}

void Flight::arrive_guard(const Round& round) {
  Guard theirs;
  std::memcpy(&theirs, arrived_.data(), sizeof theirs);
  Guard& sum = *cargo_.guard;
  switch (round.guard_rule) {
    case GuardRule::kIgnore:
      return;
    case GuardRule::kCombine:
      if (round.in.peer < transport_.rank()) {
        combine(theirs, sum);
        sum = theirs;
      } else {
        combine(sum, theirs);
      }
      return;
    case GuardRule::kAddOwn:
      combine(theirs, said_);
      sum = theirs;
      return;
    case GuardRule::kReplaceSum:
      sum = theirs;
      return;
  }
}

int Flight::peer() const noexcept {
  return receiving_ ? in_.peer : sending_ ? out_.peer : transport_.rank();
}

void Flight::abandon() noexcept {
  if (landed_) return;
  if (receiving_) transport_.abandon(in_);
  if (sending_) transport_.abandon(out_);
  receiving_ = sending_ = false;
  landed_ = true;
}

std::size_t Flight::bytes_of(const Message& message) const noexcept {
  return static_cast<std::size_t>(
      message_bytes(message, cargo_.codec,
                    static_cast<std::int64_t>(element_bytes(cargo_.element))));
}

std::byte* Flight::home_of(const Message& message) noexcept {
  return is_code(message)
             ? code_.data() + encoded_bytes(cargo_.codec, message.range.begin)
             : cargo_.data + static_cast<std::size_t>(message.range.begin) *
                                 element_bytes(cargo_.element);
}

std::span<float> Flight::numbers(Range range) const noexcept {
  return {reinterpret_cast<float*>(cargo_.data) + range.begin,
          static_cast<std::size_t>(range.count)};
}

}  // namespace thinwire
