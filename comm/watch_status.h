// What a rank is in, kept for the watch (comm/watch.h), and from what all ranks
// say of themselves: which of them the others wait for.
#pragma once

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace thinwire {

struct RankStatus {
  static constexpr std::size_t kTextBytes = 72;

  std::int64_t step = 0;        // of the run; 0 before the first
  std::uint32_t call = 0;       // number of the call made last
  bool in_call = false;         // what: the call under way; else the last one
  std::int32_t waits_for = -1;  // the rank whose message it waits for; -1: none
  std::int32_t bucket = -1;     // of an exchange; -1: none
  std::int64_t since_ms = 0;    // how long it has been in this
  std::string what;

  // "step 12, exchange 'gradients', bucket 3", "step 12, computing".
  std::string text() const;
  // Ranks in the same call have the same.
  bool same_call(const RankStatus& other) const {
    return call == other.call && what == other.what;
  }
};

// Written by the one thread that makes calls, read by the watch's. Writing
// costs some 20 ns, never blocks and allocates nothing.
class StatusBoard {
 public:
  void step(std::int64_t step) noexcept {
    step_.store(step, std::memory_order_relaxed);
    moves_.fetch_add(1, std::memory_order_relaxed);
  }
  // kind and tag name the call as in "all_reduce 'gradients'".
  void enter(std::string_view kind, std::string_view tag,
             std::uint32_t call) noexcept;
  void leave() noexcept {
    in_call_.store(false, std::memory_order_relaxed);
    waits_for_.store(-1, std::memory_order_relaxed);
    moves_.fetch_add(1, std::memory_order_relaxed);
  }
  void bucket(int bucket) noexcept {
    bucket_.store(bucket, std::memory_order_relaxed);
  }
  void waits_for(int rank) noexcept {
    waits_for_.store(rank, std::memory_order_relaxed);
  }

  // since_ms is left out.
  RankStatus read() const;
  // Changes whenever the rank gets on.
  std::uint64_t moves() const noexcept {
    return moves_.load(std::memory_order_relaxed);
  }

 private:
  static constexpr std::size_t kWords = RankStatus::kTextBytes / 8;

  std::atomic<std::int64_t> step_{0};
  std::atomic<bool> in_call_{false};
  std::atomic<std::int32_t> waits_for_{-1}, bucket_{-1};
  std::atomic<std::uint64_t> moves_{0};
  std::atomic<std::uint32_t> version_{0};  // odd while what follows is written
  std::atomic<std::uint32_t> call_{0};
  std::array<std::atomic<std::uint64_t>, kWords> text_{};
};

struct Verdict {
  std::string cause;          // STALLED, DESYNC or PARTITIONED
  std::vector<int> culprits;  // empty: see what alone
  std::string what;           // follows the names of the culprits
};

// Whom the ranks wait for, after one of them, `asker`, has waited for too long;
// all[r] is nothing where rank r did not answer. Follows who waits for whom to
// the one that waits for nobody; where they wait in a ring, those are named
// that are in another call than most.
Verdict judge_wait(int asker,
                   const std::vector<std::optional<RankStatus>>& all);

// Two ranks met in different calls: which of them is the odd one out, by what
// the others are in. Nothing while that cannot be told.
std::optional<Verdict> judge_calls(
    int one, int other, const std::vector<std::optional<RankStatus>>& all);

}  // namespace thinwire
