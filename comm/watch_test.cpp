#include "comm/watch.h"

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <condition_variable>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#include "base/error.h"

namespace thinwire {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::Not;

constexpr double kSoon = 60;  // seconds; far more than anything here takes

struct Line {
  std::string cause, text;
  bool loud = false;
};

// The ranks of a job as watches of one process, each in a place of its own.
class Ranks {
 public:
  explicit Ranks(int size, double deadline = 30)
      : said_(static_cast<std::size_t>(size)) {
    for (int r = 0; r < size; ++r) add(r, deadline);
    cards_.resize(static_cast<std::size_t>(size));
    for (int r = 0; r < size; ++r) {
      WatchCard& card = cards_[static_cast<std::size_t>(r)];
      card = watches[static_cast<std::size_t>(r)]->make_card(r);
      card.place = static_cast<std::uint64_t>(r);
    }
  }

  void join(int rank) {
    watches[static_cast<std::size_t>(rank)]->join(rank, cards_, kSoon);
  }
  void join_all() {
    each([&](int r) { join(r); });
  }
  void each(const std::function<void(int)>& f) {
    std::vector<std::jthread> threads;
    for (std::size_t r = 0; r < watches.size(); ++r) {
      if (watches[r]) threads.emplace_back(f, static_cast<int>(r));
    }
  }
  // Waits for the rank's line.
  Line line(int rank) {
    std::unique_lock lock(mutex_);
    auto& lines = said_[static_cast<std::size_t>(rank)];
    said_one_.wait_for(lock, std::chrono::duration<double>(kSoon),
                       [&] { return !lines.empty(); });
    return lines.empty() ? Line{} : lines.front();
  }
  bool silent() {
    const std::lock_guard lock(mutex_);
    return std::ranges::all_of(said_, [](auto& l) { return l.empty(); });
  }

  std::vector<WatchCard>& cards() { return cards_; }

 private:
  void add(int r, double deadline) {
    WatchOptions options{
        .say =
            [this, r](const std::string& cause, const std::string& text,
                      bool loud) {
              const std::lock_guard lock(mutex_);
              said_[static_cast<std::size_t>(r)].push_back({cause, text, loud});
              said_one_.notify_all();
            },
        .deadline_seconds = deadline,
        .grace_seconds = 1000};
    watches.push_back(std::make_unique<Watch>(std::move(options)));
  }

  std::mutex mutex_;
  std::condition_variable said_one_;
  std::vector<std::vector<Line>> said_;
  std::vector<WatchCard> cards_;

 public:
  // Last: their threads write to the members above.
  std::vector<std::unique_ptr<Watch>> watches;
};

TEST(Watch, LeavingInOrderIsNoFailure) {
  Ranks ranks(4);
  ranks.join_all();
  ranks.each([&](int r) {
    auto& watch = ranks.watches[static_cast<std::size_t>(r)];
    watch->leave();
    EXPECT_EQ(watch->failure(), nullptr);
    watch.reset();
  });
  EXPECT_TRUE(ranks.silent());
}

TEST(Watch, AClosedConnectionNamesTheRankEverywhere) {
  Ranks ranks(4);
  ranks.join_all();
  ranks.watches[1]->status().step(12);
  ranks.watches[1]->status().enter("all_reduce", "gradients", 7);
  ranks.watches[2].reset();
  for (const int r : {0, 1, 3}) {
    const Line line = ranks.line(r);
    EXPECT_EQ(line.cause, "RANK_LOST");
    EXPECT_THAT(line.text, HasSubstr("rank 2 (host "));
    EXPECT_THAT(line.text, HasSubstr(") is gone"));
    EXPECT_EQ(line.loud, r == 0);
    ASSERT_NE(ranks.watches[static_cast<std::size_t>(r)]->failure(), nullptr);
  }
  EXPECT_THAT(ranks.line(1).text,
              HasSubstr("; rank 1 was in step 12, all_reduce 'gradients'"));
  EXPECT_THAT(ranks.line(3).text, HasSubstr("; rank 3 was in computing"));
}

TEST(Watch, RankZeroIsNamedAsWell) {
  Ranks ranks(3);
  for (auto& card : ranks.cards()) card.place = card.pid == 0 ? 0 : 9;
  for (auto& card : ranks.cards()) card.pid = 0;  // nobody to look up
  ranks.join_all();
  ranks.watches[0].reset();
  for (const int r : {1, 2}) {
    const Line line = ranks.line(r);
    EXPECT_EQ(line.cause, "RANK_LOST");
    EXPECT_THAT(line.text, HasSubstr("rank 0 (host "));
    EXPECT_EQ(line.loud, r == 1);  // the lowest of the place
  }
}

TEST(Watch, AProcessThatEndsIsSeenBeforeItIsReaped) {
  Ranks ranks(2);
  int gate[2];
  ASSERT_EQ(pipe(gate), 0);
  const pid_t child = fork();
  if (child == 0) {
    char byte;
    _exit(read(gate[0], &byte, 1) == 1 ? 0 : 1);
  }
  ranks.cards()[1].pid = child;
  ranks.cards()[1].place = ranks.cards()[0].place;
  ranks.join_all();
  EXPECT_EQ(ranks.watches[0]->failure(), nullptr);
  ASSERT_EQ(write(gate[1], "x", 1), 1);
  const Line line = ranks.line(0);
  EXPECT_EQ(line.cause, "RANK_LOST");
  EXPECT_THAT(line.text, HasSubstr(fmt::format("pid {}", child)));
  waitpid(child, nullptr, 0);
  close(gate[0]);
  close(gate[1]);
}

TEST(Watch, TheOneThatComputesIsNamedNotItsNeighbour) {
  Ranks ranks(4);
  ranks.join_all();
  const auto wait = [&](int r, int peer) {
    auto& status = ranks.watches[static_cast<std::size_t>(r)]->status();
    status.step(5);
    status.enter("all_reduce", "gradients", 3);
    status.waits_for(peer);
  };
  wait(0, 1);
  wait(1, 3);
  wait(3, 2);
  ranks.watches[2]->status().step(5);
  const std::string text = ranks.watches[0]->ask_stalled(1);
  EXPECT_THAT(text, HasSubstr("rank 2 (host "));
  EXPECT_THAT(text, HasSubstr("it is in step 5, computing"));
  EXPECT_THAT(text, HasSubstr("rank 0 was in step 5, all_reduce 'gradients'"));
  for (int r = 0; r < 4; ++r) {
    EXPECT_EQ(ranks.line(r).cause, "STALLED");
    EXPECT_THAT(ranks.line(r).text, HasSubstr("rank 2 (host "));
  }
}

TEST(Watch, TheOddOneOutIsNamed) {
  Ranks ranks(3);
  ranks.join_all();
  for (const int r : {0, 1, 2}) {
    auto& status = ranks.watches[static_cast<std::size_t>(r)]->status();
    status.enter(r == 1 ? "barrier" : "all_reduce", "x", 8);
    status.waits_for((r + 1) % 3);
  }
  const std::string text = ranks.watches[2]->ask_odd(1);
  EXPECT_THAT(text, HasSubstr("rank 1 (host "));
  EXPECT_THAT(text, HasSubstr("made another call: barrier 'x' (call 8), where "
                              "2 ranks are in all_reduce 'x' (call 8)"));
  EXPECT_EQ(ranks.line(0).cause, "DESYNC");
  EXPECT_THAT(ranks.line(1).text, HasSubstr("rank 1 (host "));
}

TEST(Watch, OfTwoRanksInDifferentCallsBothAreNamed) {
  Ranks ranks(2);
  ranks.join_all();
  ranks.watches[0]->status().enter("barrier", "", 8);
  ranks.watches[1]->status().enter("all_reduce", "x", 8);
  const std::string text = ranks.watches[1]->ask_odd(0);
  EXPECT_THAT(text, HasSubstr("rank 0 (host "));
  EXPECT_THAT(text, HasSubstr("rank 1 (host "));
  EXPECT_THAT(text, HasSubstr("one is in barrier (call 8), the other in "
                              "all_reduce 'x' (call 8)"));
}

TEST(Watch, WhoKnowsTheReasonDoesNotAsk) {
  Ranks ranks(2);
  ranks.join_all();
  ranks.watches[1]->stop_asking();
  EXPECT_THAT(ranks.watches[1]->ask_stalled(0), IsEmpty());
  EXPECT_TRUE(ranks.silent());
}

// A rank that connects by hand, and then never says anything.
Fd connect_by_hand(const WatchCard& hub, const Frame& hello) {
  Fd fd = start_connect(hub.addresses[0]);
  pollfd ready{fd.get(), POLLOUT, 0};
  EXPECT_EQ(poll(&ready, 1, 60000), 1);
  EXPECT_GT(send(fd.get(), &hello, Frame::size_of(hello.kind), MSG_NOSIGNAL),
            0);
  return fd;
}

TEST(Watch, ASilentRankIsNamedWithinTheDeadline) {
  Ranks ranks(3, 2.0);
  ranks.watches[1].reset();
  std::jthread third([&] { ranks.join(2); });
  const Fd fd = connect_by_hand(
      ranks.cards()[0],
      token_frame(FrameKind::kHello, 1, ranks.cards()[0].rank_token));
  ranks.join(0);
  const auto begin = std::chrono::steady_clock::now();
  const Line line = ranks.line(0);
  const std::chrono::duration<double> took =
      std::chrono::steady_clock::now() - begin;
  EXPECT_EQ(line.cause, "STALLED");
  EXPECT_THAT(line.text, HasSubstr("rank 1 (host "));
  EXPECT_THAT(line.text, Not(HasSubstr("rank 2")));
  EXPECT_GT(took.count(), 1.0);
  EXPECT_THAT(ranks.line(2).text, HasSubstr("rank 1 (host "));
}

TEST(Watch, StrangersAreTurnedAway) {
  Ranks ranks(2);
  const WatchCard& hub = ranks.cards()[0];
  Token wrong = hub.rank_token;
  wrong[3] ^= 1;
  std::jthread joins([&] { ranks.join(0); });
  const auto turned_away = [](const Fd& fd) {
    pollfd end{fd.get(), POLLIN, 0};
    char byte;
    return poll(&end, 1, 60000) == 1 && recv(fd.get(), &byte, 1, 0) <= 0;
  };
  const Fd a = connect_by_hand(hub, token_frame(FrameKind::kHello, 1, wrong));
  EXPECT_TRUE(turned_away(a)) << "wrong token";
  const Fd b =
      connect_by_hand(hub, token_frame(FrameKind::kHello, 2, hub.rank_token));
  EXPECT_TRUE(turned_away(b)) << "no such rank";
  const Fd c =
      connect_by_hand(hub, token_frame(FrameKind::kHello, -1, hub.rank_token));
  EXPECT_TRUE(turned_away(c)) << "no such rank";
  const Fd d = connect_by_hand(hub, down_frame("RUN", "all is lost"));
  EXPECT_TRUE(turned_away(d)) << "no hello";
  Fd e = start_connect(hub.addresses[0]);
  pollfd ready{e.get(), POLLOUT, 0};
  poll(&ready, 1, 60000);
  send(e.get(), "GET / HTTP/1.1\r\n\r\n", 18, MSG_NOSIGNAL);
  EXPECT_TRUE(turned_away(e)) << "not this protocol";
  ranks.join(1);
  joins.join();
  EXPECT_TRUE(ranks.silent());
}

TEST(Watch, AHubThatCannotBeReachedIsNamed) {
  Ranks ranks(2);
  WatchCard& hub = ranks.cards()[0];
  ranks.watches[0].reset();  // nobody listens there now
  try {
    ranks.join(1);
    FAIL() << "no error";
  } catch (const CommError& error) {
    EXPECT_THAT(error.what(), HasSubstr("rank 1 (host "));
    EXPECT_THAT(error.what(), HasSubstr("cannot reach rank 0"));
    EXPECT_THAT(error.what(), HasSubstr(hub.addresses[0].text()));
  }
}

TEST(Watch, TheMissingAreNamed) {
  Ranks ranks(3);
  std::jthread one([&] { ranks.join(1); });
  try {
    ranks.watches[0]->join(0, ranks.cards(), 0.3);
    FAIL() << "no error";
  } catch (const CommError& error) {
    EXPECT_THAT(error.what(), HasSubstr("rank 2 (host "));
  }
}

TEST(WatchLink, FramesSurviveAnyCut) {
  int ends[2];
  ASSERT_EQ(socketpair(AF_UNIX, SOCK_STREAM, 0, ends), 0);
  WatchLink in{Fd(ends[0])};
  const Fd out(ends[1]);
  RankStatus status{.step = 1234567890123,
                    .call = 77,
                    .in_call = true,
                    .waits_for = 5,
                    .since_ms = 31,
                    .what = std::string(RankStatus::kTextBytes, 'x')};
  std::string bytes;
  const auto add = [&](const Frame& f) {
    bytes.append(reinterpret_cast<const char*>(&f), Frame::size_of(f.kind));
  };
  add({.kind = FrameKind::kBeat});
  add(status_frame(status));
  add(down_frame("RANK_LOST", "rank 1\nis \x7f" + std::string(2000, 'y')));
  std::vector<FrameKind> kinds;
  for (const char byte : bytes) {
    ASSERT_EQ(send(out.get(), &byte, 1, 0), 1);
    ASSERT_TRUE(in.receive());
    Frame frame;
    while (in.take(frame)) {
      kinds.push_back(frame.kind);
      if (frame.kind == FrameKind::kStatus) {
        const RankStatus got = read_status(frame);
        EXPECT_EQ(got.step, status.step);
        EXPECT_EQ(got.waits_for, 5);
        EXPECT_EQ(got.what, status.what);
      } else if (frame.kind == FrameKind::kDown) {
        const Down down = read_down(frame);
        EXPECT_EQ(down.cause, "RANK_LOST");
        EXPECT_THAT(down.text, testing::StartsWith("rank 1?is ?yyy"));
        EXPECT_LT(down.text.size(), Frame::kBodyBytes);
      }
    }
  }
  EXPECT_THAT(kinds, ElementsAre(FrameKind::kBeat, FrameKind::kStatus,
                                 FrameKind::kDown));
}

TEST(WatchLink, AnEndThatDoesNotReadCostsNothing) {
  int ends[2];
  ASSERT_EQ(socketpair(AF_UNIX, SOCK_STREAM, 0, ends), 0);
  WatchLink link{Fd(ends[0])};
  const Fd other(ends[1]);
  bool full = false;
  for (int i = 0; i < 100000 && !full; ++i) {
    full = !link.send(down_frame("RUN", "x"));
  }
  EXPECT_TRUE(full);
}

}  // namespace
}  // namespace thinwire
