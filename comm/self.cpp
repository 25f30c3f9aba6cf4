// The transport of one rank: nothing to send to.
#include "base/error.h"
#include "comm/transport.h"

namespace thinwire {
namespace {

class SelfTransport : public Transport {
 public:
  int rank() const noexcept override { return 0; }
  int size() const noexcept override { return 1; }
  std::string_view backend() const noexcept override { return "self"; }
  std::size_t max_message_bytes() const noexcept override { return 1 << 30; }

  Ticket send(int to, MessageTag, std::span<const std::byte>) override {
    fail<InternalError>("self: a message to rank {} of 1", to);
  }
  Ticket receive(int from, std::span<std::byte>) override {
    fail<InternalError>("self: a message from rank {} of 1", from);
  }
  MessageResult wait(Ticket& ticket, SteadyClock::time_point) override {
    fail<InternalError>("self: no message to wait for from {}", ticket.peer);
  }
  void abandon(Ticket&) noexcept override {}
  void stop(std::string_view) noexcept override {}
  std::unique_ptr<Transport> split(std::uint32_t, int, int, int) override {
    return make_self_transport();
  }
};

}  // namespace

std::unique_ptr<Transport> make_self_transport() {
  return std::make_unique<SelfTransport>();
}

}  // namespace thinwire
