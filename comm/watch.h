// The watch: one small thread per process that knows at once when a rank is
// lost, and on a deadline who is to blame.
//
// It holds a pidfd of every rank on its host and of its launcher, and one TCP
// connection to rank 0's watch (a star). Over these it beats, so that a stopped
// process or a host that is cut off is silent; it asks what the others are in,
// so that the named rank is the one all wait for and not a neighbour; and it
// spreads the verdict. It writes the line itself, since the rank's own thread
// may compute and MPI ends the job about a second after a death. Every wait in
// comm/ looks at failure() and ends with it.
//
// A star costs P frames of 8 bytes a beat (every 0.25 s) at rank 0.
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "comm/watch_link.h"
#include "comm/watch_status.h"

namespace thinwire {

// What the ranks tell each other of themselves before they are connected. Fixed
// in size, plain bytes.
struct WatchCard {
  static constexpr std::size_t kAddresses = 8;

  std::array<char, 64> host{};
  std::int64_t pid = 0;
  std::uint64_t place = 0;  // ranks of one place can look up each other's pid
  // Of rank 0 alone: where it listens, and what proves to it and by it that
  // both are of this run.
  Token rank_token{}, hub_token{};
  std::array<WatchAddress, kAddresses> addresses{};
  std::uint32_t address_count = 0;
};

struct WatchOptions {
  // Writes the line of a failure, at once, on the watch's thread. loud: this
  // rank is to say it to the user; the others only log it. Called once, and a
  // second time with loud when the rank that was to say it is lost as well.
  std::function<void(const std::string& cause, const std::string& text,
                     bool loud)>
      say;
  // Silence for 0.9 of this means that a rank is stopped or cut off.
  double deadline_seconds = 30;
  // After a failure the process has this long to end; then the watch ends it.
  double grace_seconds = 10;
};

class Watch {
 public:
  // Starts the thread; until join() it holds the limits alone.
  explicit Watch(WatchOptions options);
  ~Watch();
  Watch(const Watch&) = delete;
  Watch& operator=(const Watch&) = delete;

  // The one of this process, for everything in comm/; may be null. The watch is
  // the process's between the calls of make_current(true) and (false).
  static Watch* current() noexcept;
  void make_current(bool on) noexcept;

  // This rank's card; on rank 0 the port is opened. Throws CommError.
  WatchCard make_card(int rank);
  // Connects, blocking until this rank (rank 0: every rank) is. cards: of all
  // ranks. Throws CommError naming who cannot reach whom.
  void join(int rank, std::vector<WatchCard> cards, double timeout_seconds);

  void set_deadline(double seconds) noexcept;

  // Null, or why nothing that waits for another rank can succeed any more. One
  // atomic load.
  const std::string* failure() const noexcept;
  // RANK_LOST, STALLED, PARTITIONED, DESYNC or LAUNCHER_LOST; with failure().
  const std::string& cause() const noexcept;

  // What this rank is in; see StatusBoard.
  StatusBoard& status() noexcept;

  // This rank's wait for rank `peer` has passed its deadline: asks all ranks
  // what they are in, and sets the failure on all. Returns its text; empty when
  // failures are no longer looked into. Blocks for two seconds at most.
  std::string ask_stalled(int peer);
  // The same when `peer` has shown to be in another call; empty as well when
  // nobody is the odd one out, as of two ranks.
  std::string ask_odd(int peer);

  // From here on this rank does not ask: it knows what went wrong.
  void stop_asking() noexcept;
  // This rank leaves in order: its end is no failure. Blocks until all leave,
  // for two seconds at most. Limits are still held.
  void leave();

 private:
  friend class WatchLimit;
  class Impl;
  std::unique_ptr<Impl> impl_;
};

// The run is in this step now; a no-op without a watch.
inline void report_step(std::int64_t step) noexcept {
  if (Watch* watch = Watch::current()) watch->status().step(step);
}

// The bucket of an exchange that is waited for.
inline void report_bucket(int bucket) noexcept {
  if (Watch* watch = Watch::current()) watch->status().bucket(bucket);
}

// While it lives, the rank's own thread is in a call; see StatusBoard::enter.
class InCall {
 public:
  InCall(std::string_view kind, std::string_view tag,
         std::uint32_t number) noexcept {
    if (Watch* watch = Watch::current()) {
      watch->status().enter(kind, tag, number);
    }
  }
  ~InCall() {
    if (Watch* watch = Watch::current()) watch->status().leave();
  }
  InCall(const InCall&) = delete;
  InCall& operator=(const InCall&) = delete;
};

// While it lives, the process may be inside `what`, a call that cannot be
// broken off, for so long and no longer: then the watch says so and ends the
// process. Does nothing without a watch.
class WatchLimit {
 public:
  WatchLimit(const char* what, double seconds);
  ~WatchLimit();
  WatchLimit(const WatchLimit&) = delete;
  WatchLimit& operator=(const WatchLimit&) = delete;
};

// Seconds that start-up calls of MPI have (MPI_Init, communicators).
inline constexpr double kStartSeconds = 120;

}  // namespace thinwire
