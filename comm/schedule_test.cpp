#include "comm/schedule.h"

#include <gtest/gtest.h>

#include <bit>
#include <map>
#include <string>
#include <vector>

#include "comm/codec.h"

namespace thinwire {
namespace {

constexpr Algorithm kAlgorithms[] = {Algorithm::kDoubling,
                                     Algorithm::kHalvingDoubling,
                                     Algorithm::kRing, Algorithm::kTwoLevel};

// Ranks on hosts of one, of pairs, of threes …, and unevenly.
std::vector<std::vector<int>> host_maps(int ranks) {
  std::vector<std::vector<int>> maps;
  for (const int together : {1, 2, 3, 8}) {
    std::vector<int> map;
    for (int r = 0; r < ranks; ++r) map.push_back(r - r % together);
    maps.push_back(map);
  }
  std::vector<int> round_robin;
  for (int r = 0; r < ranks; ++r) round_robin.push_back(r % 3);
  maps.push_back(round_robin);
  return maps;
}

std::vector<std::vector<Round>> all_ranks(ScheduleShape shape) {
  std::vector<std::vector<Round>> schedules;
  for (shape.rank = 0; shape.rank < shape.ranks; ++shape.rank) {
    schedules.push_back(make_schedule(shape));
  }
  return schedules;
}

bool same_kind(const Message& a, const Message& b) {
  return a.range == b.range && a.coded == b.coded && a.guard == b.guard;
}

// Carries the schedules of all ranks out on sets: each rank holds one set of
// inputs per grain, as a bit mask, and no input may be added twice. Messages of
// two ranks must meet in order.
void run_on_sets(const std::vector<std::vector<Round>>& schedules,
                 std::int64_t count, std::int64_t grain, bool guard) {
  const int ranks = static_cast<int>(schedules.size());
  const auto cells = static_cast<std::size_t>((count + grain - 1) / grain);
  struct Parcel {
    Message message;
    std::vector<unsigned> sets;
    unsigned guard = 0;
  };
  struct State {
    std::vector<unsigned> sets;
    unsigned said = 0, guard = 0;
    std::size_t round = 0;
    bool sent = false;
  };
  std::map<std::pair<int, int>, std::vector<Parcel>> mail;
  std::vector<State> states(static_cast<std::size_t>(ranks));
  for (int r = 0; r < ranks; ++r) {
    auto& s = states[static_cast<std::size_t>(r)];
    s.sets.assign(cells, 1u << r);
    s.said = s.guard = 1u << r;
  }
  const auto first = [&](Range range) {
    return static_cast<std::size_t>(range.begin / grain);
  };
  const auto last = [&](Range range) {
    if (range.count == 0) return first(range);
    return static_cast<std::size_t>((range.end() + grain - 1) / grain);
  };
  for (bool moved = true; moved;) {
    moved = false;
    for (int r = 0; r < ranks; ++r) {
      auto& s = states[static_cast<std::size_t>(r)];
      const auto& rounds = schedules[static_cast<std::size_t>(r)];
      if (s.round == rounds.size()) continue;
      const Round& round = rounds[s.round];
      if (!s.sent) {
        if (round.settle) s.said = s.guard;
        if (round.out.peer >= 0) {
          const Range range = round.out.range;
          ASSERT_EQ(range.count > 0 ? range.begin % grain : 0, 0);
          Parcel parcel{round.out, {}, round.own_guard ? s.said : s.guard};
          for (auto i = first(range); i < last(range); ++i) {
            parcel.sets.push_back(s.sets[i]);
          }
          mail[{r, round.out.peer}].push_back(parcel);
        }
        s.sent = moved = true;
      }
      if (round.in.peer >= 0) {
        auto& waiting = mail[{round.in.peer, r}];
        if (waiting.empty()) continue;
        const Parcel parcel = waiting.front();
        waiting.erase(waiting.begin());
        ASSERT_TRUE(same_kind(parcel.message, round.in)) << "rank " << r;
        const Range range = round.in.range;
        for (auto i = first(range); i < last(range); ++i) {
          const unsigned in = parcel.sets[i - first(range)];
          if (round.arrival == Arrival::kAdd) {
            ASSERT_EQ(s.sets[i] & in, 0u) << "added twice";
          }
          s.sets[i] = round.arrival == Arrival::kAdd ? s.sets[i] | in : in;
        }
        if (round.in.guard) {
          switch (round.guard_rule) {
            case GuardRule::kIgnore:
              break;
            case GuardRule::kCombine:
              ASSERT_EQ(s.guard & parcel.guard, 0u);
              s.guard |= parcel.guard;
              break;
            case GuardRule::kAddOwn:
              ASSERT_EQ(s.said & parcel.guard, 0u);
              s.guard = s.said | parcel.guard;
              break;
            case GuardRule::kReplaceSum:
              s.guard = parcel.guard;
              break;
          }
        }
      }
      ++s.round;
      s.sent = false;
      moved = true;
    }
  }
  const unsigned everyone = (1u << ranks) - 1;
  for (int r = 0; r < ranks; ++r) {
    const auto& s = states[static_cast<std::size_t>(r)];
    ASSERT_EQ(s.round, schedules[static_cast<std::size_t>(r)].size())
        << "rank " << r << " waits for ever";
    for (const unsigned set : s.sets) ASSERT_EQ(set, everyone);
    if (guard) {
      ASSERT_EQ(s.guard, everyone) << "guard of rank " << r;
    }
  }
  for (const auto& [pair, waiting] : mail) ASSERT_TRUE(waiting.empty());
}

TEST(Schedule, EveryRankGetsEveryInputOnce) {
  for (const Algorithm algorithm : kAlgorithms) {
    for (int p = 1; p <= 8; ++p) {
      for (const auto& hosts : host_maps(p)) {
        for (const std::int64_t grain : {1, 256}) {
          for (const std::int64_t n : {0, 1, p - 1, p, 7, 1000, 5000}) {
            for (const bool guard : {false, true}) {
              SCOPED_TRACE(std::string(name_of(algorithm)) + ", " +
                           std::to_string(p) +
                           " ranks, n = " + std::to_string(n));
              run_on_sets(all_ranks({.algorithm = algorithm,
                                     .ranks = p,
                                     .count = n,
                                     .grain = grain,
                                     .guard = guard,
                                     .hosts = hosts}),
                          n, grain, guard);
              if (HasFatalFailure()) return;
            }
          }
        }
        if (algorithm != Algorithm::kTwoLevel) break;
      }
    }
  }
}

std::int64_t sent(Algorithm algorithm, int ranks, int rank, std::int64_t count,
                  Codec codec = Codec::kFp32, bool guard = false) {
  const std::vector<int> hosts(static_cast<std::size_t>(ranks));
  return schedule_bytes(make_schedule({.algorithm = algorithm,
                                       .ranks = ranks,
                                       .rank = rank,
                                       .count = count,
                                       .grain = codec_grain(codec),
                                       .guard = guard,
                                       .hosts = hosts}),
                        codec)
      .sent;
}

// The formulas of docs/exchange.md, beyond 2^31 numbers too.
TEST(Schedule, BytesAreTheFormulas) {
  for (int p = 1; p <= 8; ++p) {
    const auto u = static_cast<unsigned>(p);
    const std::int64_t log = std::bit_width(std::bit_floor(u)) - 1;
    const int extra = p - static_cast<int>(std::bit_floor(u));
    for (const std::int64_t chunk : {1LL, 1000LL, 3LL << 30}) {
      const std::int64_t n = chunk * 840;  // all p up to 8 divide it
      for (int r = 0; r < p; ++r) {
        const bool out = r < 2 * extra && r % 2 == 0;
        const bool helps = r < 2 * extra && r % 2 == 1;
        const std::int64_t core = std::int64_t{1} << log;
        EXPECT_EQ(sent(Algorithm::kDoubling, p, r, n),
                  4 * n * (out ? 1 : log + (helps ? 1 : 0)));
        EXPECT_EQ(
            sent(Algorithm::kHalvingDoubling, p, r, n),
            out ? 4 * n : 2 * 4 * n * (core - 1) / core + (helps ? 4 * n : 0));
        EXPECT_EQ(sent(Algorithm::kRing, p, r, n), 2 * 4 * n * (p - 1) / p);
        // One host: every rank has a lane.
        EXPECT_EQ(sent(Algorithm::kTwoLevel, p, r, n), 2 * 4 * n * (p - 1) / p);
      }
    }
  }
}

TEST(Schedule, CodecsSendTheirShare) {
  for (const Algorithm algorithm :
       {Algorithm::kHalvingDoubling, Algorithm::kRing}) {
    for (const int p : {2, 4, 8}) {
      const std::int64_t n = 256 * 840 * 64;
      const auto full = sent(algorithm, p, 1, n);
      EXPECT_EQ(sent(algorithm, p, 1, n, Codec::kBf16), full / 2);
      EXPECT_EQ(sent(algorithm, p, 1, n, Codec::kInt8), full / 1024 * 260);
    }
  }
}

TEST(Schedule, AGuardCostsItsBytesPerMessage) {
  for (const int p : {2, 4, 8}) {
    const std::int64_t log = std::bit_width(static_cast<unsigned>(p)) - 1;
    const auto more = [&](Algorithm algorithm) {
      return sent(algorithm, p, 0, 8000, Codec::kFp32, true) -
             sent(algorithm, p, 0, 8000);
    };
    EXPECT_EQ(more(Algorithm::kDoubling), 32 * log);
    EXPECT_EQ(more(Algorithm::kHalvingDoubling), 32 * log);
    EXPECT_EQ(more(Algorithm::kRing), 32 * 2 * (p - 1));
  }
}

// Between hosts two_level sends what hosts as single ranks would.
TEST(Schedule, TwoLevelBetweenHosts) {
  const std::vector<int> hosts = {0, 0, 0, 0, 4, 4, 4, 4};
  const std::int64_t n = 4000;
  std::int64_t between = 0;
  for (int r = 0; r < 4; ++r) {
    for (const Round& round : make_schedule({.algorithm = Algorithm::kTwoLevel,
                              .ranks = 8,
                              .rank = r,
                              .count = n,
                              .hosts = hosts})) {
      if (round.out.peer >= 4) {
        between += message_bytes(round.out, Codec::kFp32, 4);
      }
    }
  }
  EXPECT_EQ(between, 4 * n);
}

}  // namespace
}  // namespace thinwire
