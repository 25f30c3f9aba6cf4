#include "comm/watch.h"

#include <fmt/format.h>
#include <pthread.h>
#include <signal.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>

#include "base/error.h"
#include "comm/watch_impl.h"

namespace thinwire {
namespace {

constexpr double kAskSeconds = 2, kLeaveSeconds = 2;

std::atomic<Watch*> the_watch{nullptr};

std::chrono::nanoseconds seconds(double s) {
  return std::chrono::duration_cast<std::chrono::nanoseconds>(
      std::chrono::duration<double>(s));
}

}  // namespace

Watch::Impl::Impl(WatchOptions o)
    : options(std::move(o)),
      deadline(options.deadline_seconds),
      wake_(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)),
      launcher_pid_(getppid()) {
  if (!wake_) fail<CommError>("watch: eventfd: {}", std::strerror(errno));
  bool dead = false;
  launcher_ = open_process(launcher_pid_, dead);
  moved_ = WatchClock::now();
  thread_ = std::thread([this] { run(); });
}

Watch::Impl::~Impl() {
  {
    const std::lock_guard lock(mutex_);
    quit_ = true;
  }
  wake();
  thread_.join();
}

void Watch::Impl::wake() noexcept {
  const std::uint64_t one = 1;
  [[maybe_unused]] const auto n = write(wake_.get(), &one, sizeof one);
}

void Watch::Impl::run() {
  // Signals are the business of the rank's own threads; a closed pipe at stderr
  // must not end the process before the log has the line.
  sigset_t all;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, nullptr);
  pthread_setname_np(pthread_self(), "watch");
  std::unique_lock lock(mutex_);
  Time last = WatchClock::now();
  while (!quit_) {
    fill_polls();
    const auto pause = inquest_ ? 0.01 : beat_seconds() / 2;
    lock.unlock();
    poll(polls_.data(), polls_.size(), static_cast<int>(pause * 1e3) + 1);
    lock.lock();
    const Time now = WatchClock::now();
    // A machine that slept, or gave this thread no time, accuses nobody.
    const double elapsed = std::min(
        std::chrono::duration<double>(now - last).count(), 2 * beat_seconds());
    last = now;
    handle(now, elapsed);
  }
}

double Watch::Impl::beat_seconds() const {
  return std::clamp(deadline.load(std::memory_order_relaxed) / 20, 0.05, 0.25);
}

void Watch::Impl::fill_polls() {
  polls_.clear();
  entries_.clear();
  const auto add = [&](int fd, Source source, std::size_t i, bool write) {
    if (fd < 0) return;
    polls_.push_back(
        {fd, static_cast<short>(POLLIN | (write ? POLLOUT : 0)), 0});
    entries_.push_back({source, i});
  };
  add(wake_.get(), Source::kWake, 0, false);
  add(launcher_.get(), Source::kLauncher, 0, false);
  // Who knocks before this rank knows its own waits in the queue.
  if (phase_ == Phase::kJoining) add(port_.get(), Source::kPort, 0, false);
  for (std::size_t r = 0; r < peers_.size(); ++r) {
    const Peer& p = peers_[r];
    add(p.link.fd(), Source::kLink, r, p.link.wants_to_write());
  }
  // After the links: what a rank said before its end is heard first.
  for (std::size_t r = 0; r < peers_.size(); ++r) {
    add(peers_[r].process.get(), Source::kProcess, r, false);
  }
  for (std::size_t i = 0; i < strangers_.size(); ++i) {
    const WatchLink& link = strangers_[i].link;
    add(link.fd(), Source::kStranger, i, link.wants_to_write());
  }
}

void Watch::Impl::handle(Time now, double elapsed) {
  for (std::size_t i = 0; i < polls_.size(); ++i) {
    if (polls_[i].revents == 0) continue;
    const std::size_t index = entries_[i].index;
    switch (entries_[i].source) {
      case Source::kWake: {
        std::uint64_t count;
        [[maybe_unused]] const auto n = read(wake_.get(), &count, sizeof count);
        break;
      }
      case Source::kLauncher:
        on_launcher_gone();
        break;
      case Source::kPort:
        accept_strangers(now);
        break;
      case Source::kLink:
        peers_[index].link.flush();
        read_link(index);
        break;
      case Source::kProcess:
        peers_[index].process.reset();
        if (!peers_[index].left) lost_.push_back(static_cast<int>(index));
        break;
      case Source::kStranger:
        strangers_[index].link.flush();
        read_stranger(index);
        break;
    }
  }
  drop_strangers(now);
  if (phase_ == Phase::kJoining) find_join_end();
  judge_lost();
  beat(now, elapsed);
  judge_silent();
  go_on_with_inquest(now);
  if (phase_ == Phase::kLeaving) finish_leaving();
  hold_limits(now);
}

void Watch::Impl::beat(Time now, double elapsed) {
  if (phase_ == Phase::kAlone || phase_ == Phase::kLeft) return;
  const bool due = now >= next_beat_;
  if (due) next_beat_ = now + seconds(beat_seconds());
  for (Peer& p : peers_) {
    if (!p.link.open()) continue;
    p.silent += elapsed;
    if (due) p.link.send({.kind = FrameKind::kBeat});
  }
}

void Watch::Impl::read_link(std::size_t r) {
  Peer& peer = peers_[r];
  const bool open = peer.link.receive();
  peer.silent = 0;
  for (Frame frame; peer.link.take(frame);) on_frame(r, frame);
  if (open) return;
  peer.link.close();
  if (!peer.left && phase_ != Phase::kLeft) {
    lost_.push_back(static_cast<int>(r));
  }
}

void Watch::Impl::on_frame(std::size_t r, const Frame& frame) {
  switch (frame.kind) {
    case FrameKind::kAsk:
    case FrameKind::kOdd:
      if (hub()) {
        open_inquest(static_cast<int>(r), frame.number,
                     frame.kind == FrameKind::kOdd, WatchClock::now());
      }
      break;
    case FrameKind::kQuery:
      peers_[r].link.send(status_frame(my_status(WatchClock::now())));
      break;
    case FrameKind::kStatus:
      peers_[r].status = read_status(frame);
      break;
    case FrameKind::kDown: {
      const Down down = read_down(frame);
      fail_run(down.cause, down.text, {}, options.grace_seconds);
      said_loud_ = true;  // rank 0 says it for all, whatever becomes of it
      break;
    }
    case FrameKind::kBye:
      on_left(hub() ? r : static_cast<std::size_t>(frame.number));
      break;
    case FrameKind::kAllLeft:
      phase_ = Phase::kLeft;
      changed_.notify_all();
      break;
    case FrameKind::kBeat:
    case FrameKind::kHello:
    case FrameKind::kWelcome:
      break;
  }
}

// Rank 0 tells those who would else see the process end without a word.
void Watch::Impl::on_left(std::size_t r) {
  if (r >= peers_.size() || peers_[r].left) return;
  peers_[r].left = true;
  if (!hub()) return;
  for (std::size_t to = 1; to < peers_.size(); ++to) {
    if (to != r && cards_[to].place == cards_[r].place) {
      peers_[to].link.send(
          {.kind = FrameKind::kBye, .number = static_cast<std::int32_t>(r)});
    }
  }
}

void Watch::Impl::finish_leaving() {
  if (!hub()) return;
  const bool all = std::ranges::all_of(
      peers_, [](const Peer& p) { return p.left || p.lost; });
  if (!all) return;
  for (Peer& p : peers_) p.link.send({.kind = FrameKind::kAllLeft});
  phase_ = Phase::kLeft;
  changed_.notify_all();
}

void Watch::Impl::leave() {
  std::unique_lock lock(mutex_);
  if (phase_ != Phase::kJoined) {
    phase_ = Phase::kLeft;
    return;
  }
  phase_ = Phase::kLeaving;
  peers_[static_cast<std::size_t>(rank_)].left = true;
  for (Peer& p : peers_) {
    p.link.send({.kind = FrameKind::kBye, .number = rank_});
  }
  wake();
  if (failure == nullptr) {
    changed_.wait_for(lock, seconds(kLeaveSeconds),
                      [&] { return phase_ == Phase::kLeft; });
  }
  phase_ = Phase::kLeft;
}

std::string Watch::Impl::ask(int peer, bool odd) {
  std::unique_lock lock(mutex_);
  if (phase_ != Phase::kJoined || !asking) return "";
  if (failure == nullptr) {
    if (hub()) {
      open_inquest(0, peer, odd, WatchClock::now());
    } else {
      peers_[0].link.send(
          {.kind = odd ? FrameKind::kOdd : FrameKind::kAsk, .number = peer});
    }
    wake();
    changed_.wait_for(lock, seconds(kAskSeconds),
                      [&] { return failure != nullptr; });
  }
  if (failure == nullptr) {  // only ranks other than 0 can come here
    fail_run("STALLED", names({0}) + " does not answer", {0},
             options.grace_seconds);
  }
  return *failure;
}

Watch::Watch(WatchOptions options)
    : impl_(std::make_unique<Impl>(std::move(options))) {}

Watch::~Watch() { make_current(false); }

Watch* Watch::current() noexcept {
  return the_watch.load(std::memory_order_acquire);
}

void Watch::make_current(bool on) noexcept {
  Watch* expected = on ? nullptr : this;
  the_watch.compare_exchange_strong(expected, on ? this : nullptr);
}

WatchCard Watch::make_card(int rank) { return impl_->make_card(rank); }

void Watch::join(int rank, std::vector<WatchCard> cards,
                 double timeout_seconds) {
  impl_->join(rank, std::move(cards), timeout_seconds);
}

void Watch::set_deadline(double s) noexcept { impl_->deadline = s; }

const std::string* Watch::failure() const noexcept {
  return impl_->failure.load(std::memory_order_acquire);
}

const std::string& Watch::cause() const noexcept {
  return impl_->failure_cause;
}

StatusBoard& Watch::status() noexcept { return impl_->board; }

std::string Watch::ask_stalled(int peer) { return impl_->ask(peer, false); }

std::string Watch::ask_odd(int peer) { return impl_->ask(peer, true); }

void Watch::stop_asking() noexcept { impl_->asking = false; }

void Watch::leave() { impl_->leave(); }

WatchLimit::WatchLimit(const char* what, double s) {
  Watch* watch = Watch::current();
  if (watch == nullptr) return;
  watch->impl_->limit_what = what;
  watch->impl_->limit_at =
      (WatchClock::now() + seconds(s)).time_since_epoch().count();
}

WatchLimit::~WatchLimit() {
  Watch* watch = Watch::current();
  if (watch != nullptr) watch->impl_->limit_at = 0;
}

}  // namespace thinwire
