// All flights of one call: a few in the air at once, the next taking off as one
// lands. Looks after deadlines, dead peers and ranks out of step, and names
// them. Used by one thread at a time; release() by any.
#pragma once

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <string_view>

#include "comm/communicator.h"
#include "comm/envelope.h"
#include "comm/flight.h"

namespace thinwire {

struct Leg {
  Cargo cargo{};
  int bucket = -1;  // for messages; -1: none
};

class Fleet {
 public:
  // Both outlive it. on_error: called with the text before CommError is thrown,
  // to tell the other ranks.
  Fleet(Transport& transport, ByteCount& bytes,
        std::function<void(const std::string&)> on_error);

  void reserve(std::size_t message, std::size_t code);

  // A new call; the one before has landed. Legs take off in their order, once
  // released; legs and tag (for messages) stay as they are until all landed.
  void open(CallKind kind, std::uint64_t number, std::string_view tag,
            std::span<const Leg> legs);
  // The first `count` legs may go.
  void release(std::size_t count) noexcept {
    released_.store(count, std::memory_order_release);
  }
  bool landed() const noexcept { return landed_ == legs_.size(); }
  // No leg can go on before another is released.
  bool idle() const noexcept {
    return landed_ == released_.load(std::memory_order_acquire);
  }

  // Moves what can move; whether anything did. Throws CommError.
  bool advance();
  // Looks at clock and peers. Throws CommError when a peer is dead or out of
  // step.
  void look(SteadyClock::time_point now);
  // Until the first `count` legs have landed. Throws CommError, also when that
  // takes longer.
  void wait(std::size_t count, double timeout_seconds);

  SteadyClock::time_point took_off() const noexcept { return took_off_; }
  SteadyClock::time_point came_down() const noexcept { return came_down_; }

 private:
  static constexpr std::size_t kInAir = 4;
  struct Slot {
    explicit Slot(Transport& transport) : flight(transport) {}
    Flight flight;
    std::size_t leg = 0;
    SteadyClock::time_point stray_since{};
  };

  // A flight in the air: counted once it has landed.
  bool move(Slot& slot);
  [[noreturn]] void raise(const Slot& slot, const std::string& what);
  void check_stray(Slot& slot, SteadyClock::time_point now);
  const Slot* oldest() const noexcept;

  Transport& transport_;
  ByteCount& bytes_;
  const std::function<void(const std::string&)> on_error_;
  std::array<std::unique_ptr<Slot>, kInAir> slots_;
  std::span<const Leg> legs_;
  CallKind kind_ = CallKind::kAllReduce;
  std::uint64_t number_ = 0;
  std::string_view tag_;
  std::atomic<std::size_t> released_ = 0;
  std::size_t started_ = 0, landed_ = 0;
  SteadyClock::time_point took_off_{}, came_down_{};
};

}  // namespace thinwire
