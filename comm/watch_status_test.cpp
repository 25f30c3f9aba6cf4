#include "comm/watch_status.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <thread>

namespace thinwire {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;

using Statuses = std::vector<std::optional<RankStatus>>;

RankStatus in_call(std::string what, std::uint32_t call, int waits_for) {
  return {.step = 3,
          .call = call,
          .in_call = true,
          .waits_for = waits_for,
          .since_ms = 1500,
          .what = std::move(what)};
}

RankStatus computing() {
  return {.step = 3, .call = 7, .since_ms = 9000, .what = "all_reduce 'g'"};
}

TEST(StatusBoard, SaysWhatIsUnderWay) {
  StatusBoard board;
  EXPECT_EQ(board.read().text(), "computing");
  board.step(12);
  board.enter("all_reduce", "gradients", 5);
  board.waits_for(2);
  EXPECT_EQ(board.read().text(), "step 12, all_reduce 'gradients'");
  EXPECT_EQ(board.read().call, 5u);
  EXPECT_EQ(board.read().waits_for, 2);
  const auto moves = board.moves();
  board.leave();
  EXPECT_NE(board.moves(), moves);
  EXPECT_EQ(board.read().text(), "step 12, computing");
  EXPECT_EQ(board.read().what, "all_reduce 'gradients'");
  EXPECT_EQ(board.read().waits_for, -1);
}

TEST(StatusBoard, LongNamesAreCut) {
  StatusBoard board;
  board.enter(std::string(50, 'k'), std::string(500, 't'), 1);
  EXPECT_EQ(board.read().what.size(), RankStatus::kTextBytes - 1);
}

TEST(StatusBoard, IsReadWhole) {
  StatusBoard board;
  std::atomic<bool> stop{false};
  std::jthread writer([&] {
    for (std::uint32_t i = 0; !stop; ++i) {
      board.enter(std::string(40, static_cast<char>('a' + i % 26)), "", i % 26);
    }
  });
  while (board.moves() == 0) std::this_thread::yield();
  for (int i = 0; i < 20000; ++i) {
    const RankStatus s = board.read();
    ASSERT_EQ(s.what, std::string(40, static_cast<char>('a' + s.call)));
  }
  stop = true;
}

TEST(JudgeWait, FollowsTheChain) {
  const Statuses all{in_call("all_reduce 'g'", 8, 1),
                     in_call("all_reduce 'g'", 8, 2), computing(),
                     in_call("all_reduce 'g'", 8, 0)};
  for (const int asker : {0, 1, 3}) {
    const Verdict v = judge_wait(asker, all);
    EXPECT_EQ(v.cause, "STALLED");
    EXPECT_THAT(v.culprits, ElementsAre(2));
    EXPECT_THAT(v.what, HasSubstr("for 9.0 s it is in step 3, computing"));
  }
}

TEST(JudgeWait, NoAnswerIsTheAnswer) {
  const Statuses all{in_call("b", 8, 1), in_call("b", 8, 2), computing(),
                     std::nullopt};
  EXPECT_THAT(judge_wait(0, all).culprits, ElementsAre(3));
}

TEST(JudgeWait, InARingTheOddOneOutIsNamed) {
  const Statuses all{in_call("all_reduce 'g'", 8, 1),
                     in_call("all_reduce 'g'", 8, 2), in_call("barrier", 9, 0)};
  const Verdict v = judge_wait(0, all);
  EXPECT_EQ(v.cause, "DESYNC");
  EXPECT_THAT(v.culprits, ElementsAre(2));
  EXPECT_THAT(v.what, HasSubstr("barrier (call 9)"));
}

TEST(JudgeWait, OfTwoBothAreNamed) {
  const Statuses all{in_call("all_reduce 'g'", 8, 1), in_call("barrier", 9, 0)};
  const Verdict v = judge_wait(1, all);
  EXPECT_EQ(v.cause, "DESYNC");
  EXPECT_THAT(v.culprits, ElementsAre(0, 1));
}

TEST(JudgeWait, OneCallAndNoDataIsTheNetwork) {
  const Statuses all{in_call("barrier", 9, 1), in_call("barrier", 9, 0)};
  const Verdict v = judge_wait(1, all);
  EXPECT_EQ(v.cause, "PARTITIONED");
  EXPECT_THAT(v.culprits, IsEmpty());
}

TEST(JudgeWait, RubbishFromARankIsHarmless) {
  const Statuses all{in_call("barrier", 9, 77), in_call("barrier", 9, -5)};
  EXPECT_THAT(judge_wait(0, all).culprits, ElementsAre(0));
  EXPECT_THAT(judge_wait(1, all).culprits, ElementsAre(1));
}

TEST(JudgeCalls, TheMajorityDecides) {
  const Statuses all{in_call("all_reduce 'g'", 8, 1), in_call("barrier", 8, 0),
                     in_call("all_reduce 'g'", 8, 1), computing()};
  for (const auto& [one, other] : {std::pair(0, 1), {1, 0}, {2, 1}}) {
    const auto v = judge_calls(one, other, all);
    ASSERT_TRUE(v);
    EXPECT_EQ(v->cause, "DESYNC");
    EXPECT_THAT(v->culprits, ElementsAre(1));
  }
  EXPECT_FALSE(judge_calls(0, 2, all));  // they are in the same call
}

TEST(JudgeCalls, NobodyToDecideIsNoVerdict) {
  const Statuses all{in_call("all_reduce 'g'", 8, 1), in_call("barrier", 8, 0),
                     computing()};
  EXPECT_FALSE(judge_calls(0, 1, all));
}

}  // namespace
}  // namespace thinwire
