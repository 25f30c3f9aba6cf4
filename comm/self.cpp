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

  bool crowded() const noexcept override { return false; }
  const std::vector<int>& hosts() const noexcept override { return hosts_; }

  Ticket send(int to, MessageTag, std::span<const std::byte>) override {
    fail<InternalError>("self: a message to rank {} of 1", to);
  }
  Ticket receive(int from, std::span<std::byte>) override {
    fail<InternalError>("self: a message from rank {} of 1", from);
  }
  Ticket receive(int from, MessageTag, std::span<std::byte> data) override {
    return receive(from, data);
  }
  MessageResult wait(Ticket& ticket, SteadyClock::time_point) override {
    fail<InternalError>("self: no message to wait for from {}", ticket.peer);
  }
  // Only the all-reduce of one rank starts, and it is done at once.
  bool poll(Ticket&, MessageResult&) override { return true; }
  bool failed(int, SteadyClock::time_point, std::string&) override {
    return false;
  }
  void rest(SteadyClock::duration) override {}
  bool stray(int, MessageTag&) override { return false; }
  bool has_all_reduce() const noexcept override { return true; }
  Ticket start_all_reduce(std::span<std::byte>, Element, ReduceOp) override {
    return {};
  }
  void abandon(Ticket&) noexcept override {}
  std::string blame(int, bool) override { return ""; }
  void stop(std::string_view) noexcept override {}
  std::unique_ptr<Transport> split(std::uint32_t, int,
                                   std::span<const int>) override {
    return make_self_transport();
  }

 private:
  const std::vector<int> hosts_{0};
};

}  // namespace

std::unique_ptr<Transport> make_self_transport() {
  return std::make_unique<SelfTransport>();
}

}  // namespace thinwire
