// The inside of the watch (comm/watch.h): its thread and what that knows.
#pragma once

#include <poll.h>

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "comm/watch.h"

namespace thinwire {

using WatchClock = std::chrono::steady_clock;

// A process, to be told when it ends; a null handle where the system cannot.
// dead: there is none of that id.
Fd open_process(std::int64_t pid, bool& dead) noexcept;
// Whether a process of this place is stopped by a signal or a debugger.
bool is_stopped(std::int64_t pid) noexcept;

// Every member but the atomics is held by mutex_. The thread has it except
// inside poll, so that what it does is done in one piece.
class Watch::Impl {
 public:
  explicit Impl(WatchOptions options);
  ~Impl();

  WatchCard make_card(int rank);
  void join(int rank, std::vector<WatchCard> cards, double timeout_seconds);
  std::string ask(int peer, bool odd);
  void leave();
  void wake() noexcept;

  const WatchOptions options;
  StatusBoard board;
  std::atomic<const std::string*> failure{nullptr};
  std::string failure_cause;
  std::atomic<double> deadline;
  std::atomic<bool> asking{true};
  // The call that may not last, and until when in ns of WatchClock; 0: none.
  std::atomic<const char*> limit_what{nullptr};
  std::atomic<std::int64_t> limit_at{0};

 private:
  using Time = WatchClock::time_point;
  enum class Phase { kAlone, kJoining, kJoined, kLeaving, kLeft };
  // One thing that poll looks at, and what becomes of it.
  enum class Source { kWake, kLauncher, kPort, kProcess, kLink, kStranger };
  struct Entry {
    Source source;
    std::size_t index;
  };
  struct Peer {
    Fd process;         // of a rank of this place
    WatchLink link;     // on rank 0 to each, on others to rank 0
    double silent = 0;  // seconds since it was heard
    bool left = false;  // in order
    bool lost = false;
    std::optional<RankStatus> status;  // its answer in the inquest
  };
  // An end that has not proved to be of this run.
  struct Stranger {
    WatchLink link;
    Time since;
  };
  // Who is to blame: rank 0 asks all.
  struct Inquest {
    int asker = -1, peer = -1;
    bool odd = false;
    Time until, next_query;
  };

  void run();
  void fill_polls();
  void handle(Time now, double elapsed);
  void beat(Time now, double elapsed);
  double beat_seconds() const;

  void read_link(std::size_t r);
  void on_frame(std::size_t r, const Frame& frame);
  void on_left(std::size_t r);
  void finish_leaving();

  void accept_strangers(Time now);
  void read_stranger(std::size_t i);
  void drop_strangers(Time now);
  void find_join_end();

  void find_lost_processes();
  void judge_lost();
  void judge_silent();
  void on_launcher_gone();
  void hold_limits(Time now);

  void open_inquest(int asker, int peer, bool odd, Time now);
  void query();
  void go_on_with_inquest(Time now);

  // culprits: ranks that the text names already.
  void fail_run(const std::string& cause, const std::string& text,
                const std::vector<int>& culprits, double grace_seconds);
  void say_if_loud(bool first);
  bool loud() const;
  std::string names(const std::vector<int>& ranks) const;
  RankStatus my_status(Time now);
  bool hub() const { return rank_ == 0; }

  std::mutex mutex_;
  std::condition_variable changed_;
  Fd wake_, launcher_, port_;
  const std::int64_t launcher_pid_;
  Phase phase_ = Phase::kAlone;
  bool quit_ = false, said_loud_ = false;
  int rank_ = -1;
  std::string join_error_;
  Token rank_token_{}, hub_token_{};
  std::vector<WatchCard> cards_;
  std::vector<Peer> peers_;  // by rank
  std::vector<Stranger> strangers_;
  std::vector<int> lost_;  // found in this round
  std::optional<Inquest> inquest_;
  std::string failure_text_;
  Time next_beat_{}, end_by_{};
  std::uint64_t moves_ = 0;  // of the board, and since when
  Time moved_{};
  std::vector<pollfd> polls_;
  std::vector<Entry> entries_;
  std::thread thread_;  // last: it reads the members above
};

}  // namespace thinwire
