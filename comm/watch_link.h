// The control connections of the watch (comm/watch.h): TCP, non-blocking,
// frames of a size fixed by their kind, so that no length is ever read from the
// wire. What does not fit into the fixed buffers is dropped or ends the
// connection.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/handle.h"
#include "comm/watch_status.h"

namespace thinwire {

struct FdTraits {
  using type = int;
  static type null() noexcept { return -1; }
  static void release(type fd) noexcept;
};
using Fd = UniqueHandle<FdTraits>;

enum class FrameKind : std::uint8_t {
  kHello = 1,  // rank -> 0: token of ranks, rank in number
  kWelcome,    // 0 -> rank: token of rank 0
  kBeat,       // both ways, all the time
  kAsk,        // rank -> 0: I have waited for rank `number` for too long
  kOdd,        // rank -> 0: rank `number` is in another call than I
  kQuery,      // 0 -> rank: what are you in?
  kStatus,     // the answer
  kDown,       // to all: the run has failed; cause and text
  kBye,        // from a rank: I leave in order; from 0: rank `number` has left
  kAllLeft,    // 0 -> rank: everybody has
};

struct Frame {
  static constexpr std::size_t kBodyBytes = 504;

  FrameKind kind{};
  std::array<std::uint8_t, 3> unused{};
  std::int32_t number = 0;
  std::array<char, kBodyBytes> body{};

  // Of the whole frame on the wire; 0 for a kind that there is not.
  static std::size_t size_of(FrameKind kind) noexcept;
};
static_assert(sizeof(Frame) == 512);

using Token = std::array<char, 16>;
Token random_token();

Frame token_frame(FrameKind kind, int rank, const Token& token);
bool holds_token(const Frame& frame, const Token& token);
Frame status_frame(const RankStatus& status);
RankStatus read_status(const Frame& frame);
// Too long a text is cut.
Frame down_frame(std::string_view cause, std::string_view text);
struct Down {
  std::string cause, text;
};
Down read_down(const Frame& frame);

// An address as in struct sockaddr, of IPv4 or IPv6.
struct WatchAddress {
  std::array<char, 28> bytes{};
  std::uint32_t length = 0;

  std::string text() const;  // "10.0.0.1:40123"
};

// One connection, to whatever is at the other end.
class WatchLink {
 public:
  WatchLink() = default;
  explicit WatchLink(Fd fd);

  int fd() const noexcept { return fd_.get(); }
  bool open() const noexcept { return static_cast<bool>(fd_); }
  void close() noexcept { fd_.reset(); }
  bool wants_to_write() const noexcept { return queued_ > 0; }

  // False when it did not fit: the other end does not read.
  bool send(const Frame& frame) noexcept;
  void flush() noexcept;
  // Reads what is there; false once the connection is closed, broken, or has
  // sent what is no frame. Frames that came before are in `take` still.
  bool receive() noexcept;
  // The next whole frame; false: none.
  bool take(Frame& frame) noexcept;
  // Seconds since the other host has acknowledged anything; its kernel does so
  // for a process that is stopped as well.
  double unheard_seconds() const noexcept;

 private:
  Fd fd_;
  std::array<std::byte, 2 * sizeof(Frame)> in_{};
  std::array<std::byte, 8 * sizeof(Frame)> out_{};
  std::size_t have_ = 0, queued_ = 0;
};

// Listens at a port of the system's choice on all interfaces; the addresses
// under which other hosts may reach it, this host's own last. Throws CommError.
struct WatchPort {
  Fd fd;
  std::vector<WatchAddress> addresses;
};
WatchPort open_watch_port();
// The next one that knocks; none: a null handle.
Fd accept_watch(int port) noexcept;
// Starts to connect; a null handle when that cannot be.
Fd start_connect(const WatchAddress& address) noexcept;

}  // namespace thinwire
