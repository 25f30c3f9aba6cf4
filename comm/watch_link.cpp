#include "comm/watch_link.h"

#include <arpa/inet.h>
#include <fmt/format.h>
#include <ifaddrs.h>
#include <net/if.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cctype>
#include <cerrno>
#include <cstring>
#include <utility>

#include "base/error.h"

namespace thinwire {
namespace {

constexpr std::size_t kHeaderBytes = offsetof(Frame, body);
constexpr std::size_t kCauseBytes = 24;
constexpr char kMagic[] = "thinwire watch 1";  // with its 0: the version

struct StatusBody {
  std::int64_t step, since_ms;
  std::uint32_t call;
  std::int32_t waits_for;
  std::uint32_t in_call;
  std::int32_t bucket;
  char what[RankStatus::kTextBytes];
};
static_assert(sizeof(StatusBody) <= Frame::kBodyBytes);

// What a line of a log can take, whoever sent it.
std::string printable(const char* data, std::size_t longest) {
  std::string text(data, strnlen(data, longest));
  std::ranges::replace_if(
      text, [](unsigned char c) { return c < 0x20 || c == 0x7f; }, '?');
  return text;
}

void set_option(int fd, int level, int option, int value) noexcept {
  setsockopt(fd, level, option, &value, sizeof value);
}

// Small frames, at once; after a loss soon again, not ever later.
void tune(int fd) noexcept {
  set_option(fd, IPPROTO_TCP, TCP_NODELAY, 1);
  set_option(fd, IPPROTO_TCP, TCP_THIN_LINEAR_TIMEOUTS, 1);
}

}  // namespace

void FdTraits::release(type fd) noexcept { ::close(fd); }

std::size_t Frame::size_of(FrameKind kind) noexcept {
  switch (kind) {
    case FrameKind::kHello:
    case FrameKind::kWelcome:
      return kHeaderBytes + sizeof kMagic + sizeof(Token);
    case FrameKind::kStatus:
      return kHeaderBytes + sizeof(StatusBody);
    case FrameKind::kDown:
      return sizeof(Frame);
    case FrameKind::kBeat:
    case FrameKind::kAsk:
    case FrameKind::kOdd:
    case FrameKind::kQuery:
    case FrameKind::kBye:
    case FrameKind::kAllLeft:
      return kHeaderBytes;
  }
  return 0;
}

Token random_token() {
  Token token;
  if (getrandom(token.data(), token.size(), 0) !=
      static_cast<ssize_t>(token.size())) {
    fail<CommError>("watch: no random numbers: {}", std::strerror(errno));
  }
  return token;
}

Frame token_frame(FrameKind kind, int rank, const Token& token) {
  Frame frame{.kind = kind, .number = rank};
  std::memcpy(frame.body.data(), kMagic, sizeof kMagic);
  std::memcpy(frame.body.data() + sizeof kMagic, token.data(), token.size());
  return frame;
}

bool holds_token(const Frame& frame, const Token& token) {
  return std::memcmp(frame.body.data(), kMagic, sizeof kMagic) == 0 &&
         std::memcmp(frame.body.data() + sizeof kMagic, token.data(),
                     token.size()) == 0;
}

Frame status_frame(const RankStatus& s) {
  StatusBody body{.step = s.step,
                  .since_ms = s.since_ms,
                  .call = s.call,
                  .waits_for = s.waits_for,
                  .in_call = s.in_call,
                  .bucket = s.bucket,
                  .what = {}};
  std::memcpy(body.what, s.what.data(),
              std::min(s.what.size(), sizeof body.what));
  Frame frame{.kind = FrameKind::kStatus};
  std::memcpy(frame.body.data(), &body, sizeof body);
  return frame;
}

RankStatus read_status(const Frame& frame) {
  StatusBody body;
  std::memcpy(&body, frame.body.data(), sizeof body);
  return {.step = body.step,
          .call = body.call,
          .in_call = body.in_call != 0,
          .waits_for = body.waits_for,
          .bucket = body.bucket,
          .since_ms = body.since_ms,
          .what = printable(body.what, sizeof body.what)};
}

Frame down_frame(std::string_view cause, std::string_view text) {
  Frame frame{.kind = FrameKind::kDown};
  std::memcpy(frame.body.data(), cause.data(),
              std::min(cause.size(), kCauseBytes - 1));
  std::memcpy(frame.body.data() + kCauseBytes, text.data(),
              std::min(text.size(), Frame::kBodyBytes - kCauseBytes - 1));
  return frame;
}

Down read_down(const Frame& frame) {
  return {printable(frame.body.data(), kCauseBytes - 1),
          printable(frame.body.data() + kCauseBytes,
                    Frame::kBodyBytes - kCauseBytes - 1)};
}

WatchLink::WatchLink(Fd fd) : fd_(std::move(fd)) { tune(fd_.get()); }

bool WatchLink::send(const Frame& frame) noexcept {
  if (!open()) return false;
  const std::size_t size = Frame::size_of(frame.kind);
  if (queued_ + size > out_.size()) return false;
  std::memcpy(out_.data() + queued_, &frame, size);
  queued_ += size;
  flush();
  return true;
}

void WatchLink::flush() noexcept {
  while (open() && queued_ > 0) {
    const ssize_t n =
        ::send(fd(), out_.data(), queued_, MSG_DONTWAIT | MSG_NOSIGNAL);
    if (n < 0) return;  // full, or broken: receive() will see it
    queued_ -= static_cast<std::size_t>(n);
    std::memmove(out_.data(), out_.data() + n, queued_);
  }
}

bool WatchLink::receive() noexcept {
  while (open() && have_ < in_.size()) {
    const ssize_t n =
        ::recv(fd(), in_.data() + have_, in_.size() - have_, MSG_DONTWAIT);
    if (n == 0) return false;
    if (n < 0) return errno == EAGAIN || errno == EINTR || errno == ENOTCONN;
    have_ += static_cast<std::size_t>(n);
    const auto kind = static_cast<FrameKind>(in_[0]);
    if (Frame::size_of(kind) == 0) return false;
  }
  return open();
}

bool WatchLink::take(Frame& frame) noexcept {
  if (have_ == 0) return false;
  const std::size_t size = Frame::size_of(static_cast<FrameKind>(in_[0]));
  if (size == 0 || have_ < size) return false;
  frame = {};
  std::memcpy(static_cast<void*>(&frame), in_.data(), size);
  have_ -= size;
  std::memmove(in_.data(), in_.data() + size, have_);
  return true;
}

double WatchLink::unheard_seconds() const noexcept {
  tcp_info info{};
  socklen_t length = sizeof info;
  if (!open() || getsockopt(fd(), IPPROTO_TCP, TCP_INFO, &info, &length) != 0) {
    return 0;
  }
  return info.tcpi_last_ack_recv / 1e3;
}

std::string WatchAddress::text() const {
  std::array<char, INET6_ADDRSTRLEN> name{};
  sockaddr_storage any{};
  std::memcpy(&any, bytes.data(), std::min<std::size_t>(length, bytes.size()));
  if (any.ss_family == AF_INET6) {
    const auto& v6 = reinterpret_cast<const sockaddr_in6&>(any);
    inet_ntop(AF_INET6, &v6.sin6_addr, name.data(), name.size());
    return fmt::format("[{}]:{}", name.data(), ntohs(v6.sin6_port));
  }
  const auto& v4 = reinterpret_cast<const sockaddr_in&>(any);
  inet_ntop(AF_INET, &v4.sin_addr, name.data(), name.size());
  return fmt::format("{}:{}", name.data(), ntohs(v4.sin_port));
}

WatchPort open_watch_port() {
  const auto give_up = [](const char* call) {
    fail<CommError>("watch: rank 0 cannot listen: {}: {}", call,
                    std::strerror(errno));
  };
  // IPv6 takes IPv4 as well; a host without IPv6 has IPv4 alone.
  sockaddr_in6 v6{};
  v6.sin6_family = AF_INET6;
  sockaddr_in v4{};
  v4.sin_family = AF_INET;
  WatchPort port;
  const int kind = SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK;
  port.fd.reset(socket(AF_INET6, kind, 0));
  bool both = static_cast<bool>(port.fd);
  if (both) {
    set_option(port.fd.get(), IPPROTO_IPV6, IPV6_V6ONLY, 0);
    both =
        bind(port.fd.get(), reinterpret_cast<sockaddr*>(&v6), sizeof v6) == 0;
  }
  if (!both) {
    port.fd.reset(socket(AF_INET, kind, 0));
    if (!port.fd) give_up("socket");
    if (bind(port.fd.get(), reinterpret_cast<sockaddr*>(&v4), sizeof v4) != 0) {
      give_up("bind");
    }
  }
  if (listen(port.fd.get(), SOMAXCONN) != 0) give_up("listen");
  sockaddr_in6 bound{};
  socklen_t length = sizeof bound;
  getsockname(port.fd.get(), reinterpret_cast<sockaddr*>(&bound), &length);
  const in_port_t number = bound.sin6_port;  // where sockaddr_in has it, too

  ifaddrs* list = nullptr;
  if (getifaddrs(&list) != 0) give_up("getifaddrs");
  std::vector<WatchAddress> own;
  for (const ifaddrs* i = list; i != nullptr; i = i->ifa_next) {
    if (i->ifa_addr == nullptr || (i->ifa_flags & IFF_UP) == 0) continue;
    WatchAddress address;
    if (i->ifa_addr->sa_family == AF_INET) {
      auto a = *reinterpret_cast<const sockaddr_in*>(i->ifa_addr);
      a.sin_port = number;
      address.length = sizeof a;
      std::memcpy(address.bytes.data(), &a, sizeof a);
    } else if (i->ifa_addr->sa_family == AF_INET6 && both) {
      auto a = *reinterpret_cast<const sockaddr_in6*>(i->ifa_addr);
      if (IN6_IS_ADDR_LINKLOCAL(&a.sin6_addr)) continue;
      a.sin6_port = number;
      address.length = sizeof a;
      std::memcpy(address.bytes.data(), &a, sizeof a);
    } else {
      continue;
    }
    const bool local = (i->ifa_flags & IFF_LOOPBACK) != 0;
    (local ? own : port.addresses).push_back(address);
  }
  freeifaddrs(list);
  port.addresses.insert(port.addresses.end(), own.begin(), own.end());
  if (port.addresses.empty()) {
    fail<CommError>("watch: rank 0's host has no network interface that is up");
  }
  return port;
}

Fd accept_watch(int port) noexcept {
  return Fd(accept4(port, nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
}

Fd start_connect(const WatchAddress& address) noexcept {
  sockaddr_storage any{};
  std::memcpy(&any, address.bytes.data(),
              std::min<std::size_t>(address.length, address.bytes.size()));
  Fd fd(socket(any.ss_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (fd &&
      connect(fd.get(), reinterpret_cast<sockaddr*>(&any), address.length) !=
          0 &&
      errno != EINPROGRESS) {
    fd.reset();
  }
  return fd;
}

}  // namespace thinwire
