// What the watch makes of what it sees: who is lost, silent, or waited for.
#include <fmt/format.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <thread>
#include <utility>

#include "comm/watch_impl.h"

namespace thinwire {
namespace {

constexpr auto kInquest = std::chrono::milliseconds(1000);
constexpr auto kQueryEvery = std::chrono::milliseconds(50);
constexpr double kOrphanGrace = 0.5;

const char* are(const std::vector<int>& ranks) {
  return ranks.size() == 1 ? "is" : "are";
}

}  // namespace

Fd open_process(std::int64_t pid, bool& dead) noexcept {
  const long fd = syscall(SYS_pidfd_open, static_cast<pid_t>(pid), 0);
  dead = fd < 0 && errno == ESRCH;
  return Fd(static_cast<int>(fd));
}

bool is_stopped(std::int64_t pid) noexcept {
  char path[64], text[512];
  std::snprintf(path, sizeof path, "/proc/%lld/stat",
                static_cast<long long>(pid));
  std::FILE* file = std::fopen(path, "re");
  if (file == nullptr) return false;
  const std::size_t n = std::fread(text, 1, sizeof text - 1, file);
  std::fclose(file);
  text[n] = 0;
  const char* state = std::strrchr(text, ')');  // of "pid (name) state …"
  return state != nullptr && state + 2 < text + n &&
         (state[2] == 'T' || state[2] == 't');
}

std::string Watch::Impl::names(const std::vector<int>& ranks) const {
  constexpr std::size_t kNamed = 8;
  std::string text;
  for (std::size_t i = 0; i < std::min(ranks.size(), kNamed); ++i) {
    const WatchCard& card = cards_[static_cast<std::size_t>(ranks[i])];
    text += fmt::format("{}rank {} (host {}, pid {})", i == 0 ? "" : ", ",
                        ranks[i], card.host.data(), card.pid);
  }
  if (ranks.size() > kNamed) {
    text += fmt::format(" and {} more", ranks.size() - kNamed);
  }
  return text;
}

RankStatus Watch::Impl::my_status(Time now) {
  if (std::exchange(moves_, board.moves()) != moves_) moved_ = now;
  RankStatus status = board.read();
  status.since_ms =
      std::chrono::duration_cast<std::chrono::milliseconds>(now - moved_)
          .count();
  return status;
}

void Watch::Impl::find_lost_processes() {
  for (std::size_t r = 0; r < peers_.size(); ++r) {
    pollfd one{peers_[r].process.get(), POLLIN, 0};
    if (one.fd < 0 || poll(&one, 1, 0) != 1) continue;
    peers_[r].process.reset();
    if (!peers_[r].left) lost_.push_back(static_cast<int>(r));
  }
}

void Watch::Impl::judge_lost() {
  if (lost_.empty()) return;
  if (phase_ == Phase::kLeft) return lost_.clear();
  if (failure == nullptr) {
    // Those that went with it, as when a host's daemon is killed, are named in
    // the same line.
    std::this_thread::sleep_for(std::chrono::milliseconds(2));
    find_lost_processes();
  }
  std::ranges::sort(lost_);
  lost_.erase(std::ranges::unique(lost_).begin(), lost_.end());
  std::erase_if(lost_, [&](int r) {
    return std::exchange(peers_[static_cast<std::size_t>(r)].lost, true);
  });
  const std::vector<int> lost = std::exchange(lost_, {});
  if (lost.empty()) return;
  if (failure != nullptr) return say_if_loud(false);
  const bool here = std::ranges::all_of(lost, [&](int r) {
    return cards_[static_cast<std::size_t>(r)].place ==
           cards_[static_cast<std::size_t>(rank_)].place;
  });
  fail_run("RANK_LOST",
           fmt::format("{} {} gone: {}", names(lost), are(lost),
                       here ? "the process has ended"
                            : "the process or its host has ended"),
           lost, options.grace_seconds);
}

void Watch::Impl::judge_silent() {
  const double limit = 0.9 * deadline.load(std::memory_order_relaxed);
  if (failure != nullptr || phase_ != Phase::kJoined) return;
  const auto worst = std::ranges::max_element(peers_, {}, &Peer::silent);
  if (worst == peers_.end() || worst->silent < limit) return;
  const auto first = static_cast<std::size_t>(worst - peers_.begin());
  const auto& mine = cards_[static_cast<std::size_t>(rank_)];
  const double silent = worst->silent;
  std::string cause = "STALLED", why;
  const bool stopped =
      cards_[first].place == mine.place && is_stopped(cards_[first].pid);
  if (stopped) {
    why = "stopped, by a signal or a debugger";
  } else if (worst->link.unheard_seconds() > limit / 2) {
    cause = "PARTITIONED";
    why = "cut off, or the host is down";
  } else {
    why = "stopped, though the host answers";
  }
  std::vector<int> culprits;
  for (std::size_t r = 0; r < peers_.size(); ++r) {
    const bool through_rank_0 =
        !hub() && cause == "PARTITIONED" && cards_[r].place == cards_[0].place;
    if (peers_[r].silent >= 0.7 * limit || through_rank_0) {
      culprits.push_back(static_cast<int>(r));
    }
  }
  fail_run(cause,
           fmt::format("{} {} {}: silent for {:.1f} s", names(culprits),
                       are(culprits), why, silent),
           culprits, options.grace_seconds);
}

void Watch::Impl::on_launcher_gone() {
  launcher_.reset();
  if (phase_ == Phase::kLeft) _exit(1);  // nobody waits for it any more
  std::vector<int> ranks;
  for (std::size_t r = 0; r < cards_.size(); ++r) {
    if (cards_[r].place == cards_[static_cast<std::size_t>(rank_)].place) {
      ranks.push_back(static_cast<int>(r));
    }
  }
  // Before MPI has said who this rank is, nobody else knows it either.
  fail_run("LAUNCHER_LOST",
           fmt::format("the launcher (pid {}) of {} is gone", launcher_pid_,
                       ranks.empty() ? "this process" : names(ranks)),
           {}, kOrphanGrace);
}

void Watch::Impl::open_inquest(int asker, int peer, bool odd, Time now) {
  if (inquest_ || failure != nullptr) return;
  inquest_ = Inquest{asker, peer, odd, now + kInquest, now};
  query();
}

void Watch::Impl::query() {
  const Time now = WatchClock::now();
  inquest_->next_query = now + kQueryEvery;
  for (Peer& p : peers_) {
    p.status.reset();
    p.link.send({.kind = FrameKind::kQuery});
  }
  peers_[0].status = my_status(now);
}

void Watch::Impl::go_on_with_inquest(Time now) {
  if (!inquest_ || failure != nullptr) return inquest_.reset();
  std::vector<std::optional<RankStatus>> all;
  for (const Peer& p : peers_) all.push_back(p.status);
  const bool answered =
      std::ranges::all_of(all, [](const auto& s) { return s.has_value(); });
  if (!answered && now < inquest_->until) return;
  const auto size = static_cast<int>(peers_.size());
  const int asker = inquest_->asker, peer = inquest_->peer;
  const bool odd = inquest_->odd && peer >= 0 && peer < size;
  Verdict verdict;
  if (!odd || !answered) {
    verdict = judge_wait(asker, all);
  } else if (auto found = judge_calls(asker, peer, all)) {
    verdict = *std::move(found);
  } else if (now < inquest_->until &&
             !std::ranges::all_of(all, [](auto& s) { return s->in_call; })) {
    // Those who compute may still come there and decide it.
    if (now >= inquest_->next_query) query();
    return;
  } else {
    verdict.cause = "DESYNC";
    verdict.culprits = {std::min(asker, peer), std::max(asker, peer)};
    const auto call = [&](int r) {
      const RankStatus& s = *all[static_cast<std::size_t>(r)];
      return fmt::format("{} (call {})", s.what, s.call);
    };
    verdict.what =
        fmt::format("do not make the same calls: one is in {}, the other in {}",
                    call(verdict.culprits[0]), call(verdict.culprits[1]));
  }
  fail_run(verdict.cause,
           verdict.culprits.empty()
               ? verdict.what
               : fmt::format("{} {}", names(verdict.culprits), verdict.what),
           verdict.culprits, options.grace_seconds);
}

void Watch::Impl::fail_run(const std::string& cause, const std::string& text,
                           const std::vector<int>& culprits,
                           double grace_seconds) {
  if (failure != nullptr) return;
  const Time now = WatchClock::now();
  for (const int r : culprits) peers_[static_cast<std::size_t>(r)].lost = true;
  failure_cause = cause;
  failure_text_ =
      fmt::format("{}; rank {} was in {}", text, rank_, my_status(now).text());
  end_by_ = now + std::chrono::duration_cast<WatchClock::duration>(
                      std::chrono::duration<double>(grace_seconds));
  failure.store(&failure_text_, std::memory_order_release);
  // Rank 0 spreads it; of a launcher that is gone only its ranks know.
  if (hub() || cause == "LAUNCHER_LOST") {
    for (Peer& p : peers_) p.link.send(down_frame(cause, text));
  }
  say_if_loud(true);
  changed_.notify_all();
}

// The lowest rank that can: rank 0 speaks for all; without it the lowest of
// each place, for the places cannot see each other.
bool Watch::Impl::loud() const {
  if (rank_ <= 0 || cards_.empty()) return true;
  if (!peers_[0].lost && !peers_[0].left) return false;
  for (int r = 0; r < rank_; ++r) {
    const auto i = static_cast<std::size_t>(r);
    if (!peers_[i].lost && !peers_[i].left &&
        cards_[i].place == cards_[static_cast<std::size_t>(rank_)].place) {
      return false;
    }
  }
  return true;
}

void Watch::Impl::say_if_loud(bool first) {
  const bool aloud = !said_loud_ && loud();
  if (aloud) said_loud_ = true;
  if ((first || aloud) && options.say) {
    options.say(failure_cause, failure_text_, aloud);
  }
}

void Watch::Impl::hold_limits(Time now) {
  const auto until = limit_at.load(std::memory_order_relaxed);
  if (until != 0 && now.time_since_epoch().count() > until &&
      failure == nullptr) {
    fail_run("STALLED",
             fmt::format("{} did not return in time",
                         limit_what.load(std::memory_order_relaxed)),
             {}, 0);
  }
  if (failure != nullptr && now >= end_by_) {
    // The rank's own thread is stuck, or far from its next exchange.
    _exit(1);
  }
}

}  // namespace thinwire
