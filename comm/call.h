// One collective call in flight on one rank: its messages, its deadline, its
// errors. Every message carries kind and number of the call in its envelope and
// is held to the expected size, so ranks that fall out of step notice at the
// next message, at no byte's cost.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <utility>

#include "comm/communicator.h"
#include "comm/envelope.h"
#include "comm/transport.h"
#include "comm/watch.h"

namespace thinwire {

class Call {
 public:
  // number: how many calls this communicator made before. bytes: counts the
  // payload of every message. Both references outlive the call.
  Call(Transport& transport, CallKind kind, std::uint32_t number,
       std::string_view tag, double timeout_seconds, ByteCount& bytes);

  int rank() const noexcept { return transport_.rank(); }
  int size() const noexcept { return transport_.size(); }

  // A message that is waited for, or given up when dropped.
  class Pending {
   public:
    Pending() = default;
    Pending(Pending&& other) noexcept
        : call_(std::exchange(other.call_, nullptr)), ticket_(other.ticket_) {}
    Pending& operator=(Pending&& other) noexcept {
      std::swap(call_, other.call_);
      std::swap(ticket_, other.ticket_);
      return *this;
    }
    ~Pending() {
      if (call_ != nullptr) call_->transport_.abandon(ticket_);
    }
    // Throws CommError: timeout, dead peer, other size, other call.
    void wait() {
      if (call_ != nullptr) call_->finish(ticket_);
      call_ = nullptr;
    }

   private:
    friend class Call;
    Pending(Call* call, Ticket ticket) : call_(call), ticket_(ticket) {}
    Call* call_ = nullptr;
    Ticket ticket_;
  };

  // At most the transport's max_message_bytes() each.
  Pending start_send(int to, std::span<const std::byte> data);
  Pending start_receive(int from, std::span<std::byte> data);

  // Any size; cut into messages as long as the transport takes.
  void send(int to, std::span<const std::byte> data);
  void receive(int from, std::span<std::byte> data);
  // Both at once.
  void exchange(int to, std::span<const std::byte> out, int from,
                std::span<std::byte> in);

  // Throws CommError after telling the other ranks.
  [[noreturn]] void raise(const std::string& what);

 private:
  friend class Pending;
  void move(int to, std::span<const std::byte> out, std::size_t outs, int from,
            std::span<std::byte> in, std::size_t ins);
  void finish(Ticket& ticket);
  std::string name() const;

  Transport& transport_;
  const CallKind kind_;
  const std::uint32_t number_;
  const std::size_t longest_;
  const std::string_view tag_;
  const double timeout_seconds_;
  const SteadyClock::time_point deadline_;
  ByteCount& bytes_;
  const InCall status_;
};

}  // namespace thinwire
