// How the watches find each other: rank 0 listens, the others connect, each
// side proves by a token that it is of this run.
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <utility>

#include "base/error.h"
#include "base/hash.h"
#include "comm/watch_impl.h"

namespace thinwire {
namespace {

constexpr auto kHelloTime = std::chrono::seconds(5);
// Knocks that may be open at once, beyond one of each rank and address.
constexpr std::size_t kMoreStrangers = 8;

std::uint64_t namespace_of(const char* kind) {
  struct stat info {};
  stat(fmt::format("/proc/self/ns/{}", kind).c_str(), &info);
  return info.st_ino;
}

}  // namespace

WatchCard Watch::Impl::make_card(int rank) {
  WatchCard card;
  gethostname(card.host.data(), card.host.size() - 1);
  card.pid = getpid();
  card.place = hash64(fmt::format("{} {} {}", card.host.data(),
                                  namespace_of("pid"), namespace_of("net")));
  if (rank != 0) return card;
  WatchPort port = open_watch_port();
  card.rank_token = random_token();
  card.hub_token = random_token();
  card.address_count = static_cast<std::uint32_t>(
      std::min(port.addresses.size(), WatchCard::kAddresses));
  std::copy_n(port.addresses.begin(), card.address_count,
              card.addresses.begin());
  const std::lock_guard lock(mutex_);
  port_ = std::move(port.fd);
  return card;
}

void Watch::Impl::join(int rank, std::vector<WatchCard> cards,
                       double timeout_seconds) {
  std::unique_lock lock(mutex_);
  rank_ = rank;
  cards_ = std::move(cards);
  for (WatchCard& card : cards_) card.host.back() = 0;
  peers_.resize(cards_.size());
  rank_token_ = cards_[0].rank_token;
  hub_token_ = cards_[0].hub_token;
  const WatchCard& mine = cards_[static_cast<std::size_t>(rank)];
  for (std::size_t r = 0; r < cards_.size(); ++r) {
    if (static_cast<int>(r) == rank || cards_[r].place != mine.place ||
        cards_[r].pid == mine.pid) {
      continue;
    }
    bool dead = false;
    peers_[r].process = open_process(cards_[r].pid, dead);
    if (dead) lost_.push_back(static_cast<int>(r));
  }
  const Time now = WatchClock::now();
  phase_ = Phase::kJoining;
  if (rank != 0) {
    const auto count =
        std::min<std::size_t>(cards_[0].address_count, WatchCard::kAddresses);
    for (std::size_t i = 0; i < count; ++i) {
      Fd fd = start_connect(cards_[0].addresses[i]);
      if (!fd) continue;
      strangers_.push_back({WatchLink(std::move(fd)), now});
      strangers_.back().link.send(
          token_frame(FrameKind::kHello, rank, rank_token_));
    }
  }
  wake();
  const auto ended = [&] {
    return phase_ == Phase::kJoined || !join_error_.empty() ||
           failure != nullptr;
  };
  const bool in_time = changed_.wait_for(
      lock, std::chrono::duration<double>(timeout_seconds), ended);
  if (failure != nullptr) throw CommError(*failure);
  if (phase_ == Phase::kJoined) return;
  std::string text = join_error_;
  if (!in_time && hub()) {
    std::vector<int> missing;
    for (std::size_t r = 1; r < peers_.size(); ++r) {
      if (!peers_[r].link.open()) missing.push_back(static_cast<int>(r));
    }
    text = fmt::format("watch: timed out after {:.1f} s: no connection from {}",
                       timeout_seconds, names(missing));
  } else if (!in_time) {
    text = fmt::format("watch: timed out after {:.1f} s: {} does not answer",
                       timeout_seconds, names({0}));
  }
  throw CommError(text);
}

void Watch::Impl::find_join_end() {
  const auto is_linked = [](const Peer& p) { return p.link.open(); };
  if (hub()) {
    if (!std::all_of(peers_.begin() + 1, peers_.end(), is_linked)) return;
  } else if (!is_linked(peers_[0])) {
    if (!strangers_.empty()) return;
    std::string tried;
    for (std::size_t i = 0; i < std::min<std::size_t>(cards_[0].address_count,
                                                      WatchCard::kAddresses);
         ++i) {
      tried += fmt::format("{}{}", i == 0 ? "" : ", ",
                           cards_[0].addresses[i].text());
    }
    join_error_ = fmt::format(
        "watch: {} cannot reach {} at any of {}; all TCP ports must be open "
        "between the hosts of a job",
        names({rank_}), names({0}), tried);
    changed_.notify_all();
    return;
  }
  if (hub()) port_.reset();
  strangers_.clear();
  phase_ = Phase::kJoined;
  changed_.notify_all();
}

void Watch::Impl::accept_strangers(Time now) {
  const std::size_t most =
      peers_.size() * WatchCard::kAddresses + kMoreStrangers;
  for (;;) {
    Fd fd = accept_watch(port_.get());
    if (!fd) return;
    if (strangers_.size() < most) {
      strangers_.push_back({WatchLink(std::move(fd)), now});
    }
  }
}

void Watch::Impl::read_stranger(std::size_t i) {
  WatchLink& link = strangers_[i].link;
  const bool open = link.receive();
  Frame frame;
  if (!link.take(frame)) {
    if (!open) link.close();
    return;
  }
  if (hub()) {
    const auto r = static_cast<std::size_t>(frame.number);
    const bool known = frame.kind == FrameKind::kHello && frame.number > 0 &&
                       r < peers_.size() && !peers_[r].link.open() &&
                       holds_token(frame, rank_token_);
    if (!open || !known) return link.close();
    peers_[r].link = std::move(link);
    peers_[r].silent = 0;
    peers_[r].link.send(token_frame(FrameKind::kWelcome, 0, hub_token_));
  } else {
    if (frame.kind != FrameKind::kWelcome || !holds_token(frame, hub_token_) ||
        peers_[0].link.open()) {
      return link.close();
    }
    peers_[0].link = std::move(link);
    peers_[0].silent = 0;
  }
  link.close();
}

void Watch::Impl::drop_strangers(Time now) {
  std::erase_if(strangers_, [&](const Stranger& s) {
    return !s.link.open() || (hub() && now - s.since > kHelloTime);
  });
}

}  // namespace thinwire
