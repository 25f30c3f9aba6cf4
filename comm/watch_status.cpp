#include "comm/watch_status.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cstring>
#include <thread>

namespace thinwire {
namespace {

using Statuses = std::vector<std::optional<RankStatus>>;

std::string call_name(const RankStatus& s) {
  return fmt::format("{} (call {})", s.what, s.call);
}

// How many ranks are in the call of `key`.
std::size_t voters(const Statuses& all, const RankStatus& key) {
  return static_cast<std::size_t>(std::ranges::count_if(
      all, [&](auto& s) { return s && s->in_call && s->same_call(key); }));
}

// Of ranks that wait for each other.
Verdict judge_ring(const std::vector<int>& ring, const Statuses& all) {
  const auto of = [&](int r) -> const RankStatus& {
    return *all[static_cast<std::size_t>(r)];
  };
  // The call that most are in; the first of equals.
  int most = ring.front();
  for (const int r : ring) {
    if (voters(all, of(r)) > voters(all, of(most))) most = r;
  }
  Verdict verdict{.cause = "DESYNC", .culprits = {}, .what = ""};
  for (const int r : ring) {
    if (!of(r).same_call(of(most))) verdict.culprits.push_back(r);
  }
  if (verdict.culprits.empty()) {
    verdict.cause = "PARTITIONED";
    verdict.what = fmt::format(
        "rank {} waits for rank {} and that for it, in one call, {}: data do "
        "not pass between them",
        ring.front(), ring.back(), call_name(of(most)));
    return verdict;
  }
  const RankStatus& odd = of(verdict.culprits.front());
  if (voters(all, odd) == voters(all, of(most))) {  // nobody to decide it
    verdict.culprits = ring;
    std::ranges::sort(verdict.culprits);
    verdict.what = fmt::format("do not make the same calls: {} against {}",
                               call_name(of(most)), call_name(odd));
    return verdict;
  }
  verdict.what =
      fmt::format("made another call: {}, where {} ranks are in {}",
                  call_name(odd), voters(all, of(most)), call_name(of(most)));
  return verdict;
}

}  // namespace

std::string RankStatus::text() const {
  const std::string where = step > 0 ? fmt::format("step {}, ", step) : "";
  if (!in_call) return where + "computing";
  return where + what + (bucket < 0 ? "" : fmt::format(", bucket {}", bucket));
}

void StatusBoard::enter(std::string_view kind, std::string_view tag,
                        std::uint32_t call) noexcept {
  std::array<char, kWords * 8> text{};
  std::size_t used = 0;
  const auto add = [&](std::string_view part) {
    const std::size_t n = std::min(part.size(), text.size() - 1 - used);
    std::memcpy(text.data() + used, part.data(), n);
    used += n;
  };
  add(kind);
  if (!tag.empty()) {
    add(" '");
    add(tag);
    add("'");
  }
  std::array<std::uint64_t, kWords> words;
  std::memcpy(words.data(), text.data(), sizeof words);
  const auto version = version_.load(std::memory_order_relaxed);
  version_.store(version + 1, std::memory_order_relaxed);
  std::atomic_thread_fence(std::memory_order_release);
  call_.store(call, std::memory_order_relaxed);
  for (std::size_t i = 0; i < kWords; ++i) {
    text_[i].store(words[i], std::memory_order_relaxed);
  }
  version_.store(version + 2, std::memory_order_release);
  waits_for_.store(-1, std::memory_order_relaxed);
  bucket_.store(-1, std::memory_order_relaxed);
  in_call_.store(true, std::memory_order_relaxed);
  moves_.fetch_add(1, std::memory_order_relaxed);
}

RankStatus StatusBoard::read() const {
  RankStatus status;
  std::array<std::uint64_t, kWords> words{};
  // A writer in the middle is done in no time, unless it lost its core there.
  for (int tries = 0; tries < 300; ++tries) {
    if (tries > 100)
      std::this_thread::sleep_for(std::chrono::microseconds(100));
    const auto before = version_.load(std::memory_order_acquire);
    status.call = call_.load(std::memory_order_relaxed);
    for (std::size_t i = 0; i < kWords; ++i) {
      words[i] = text_[i].load(std::memory_order_relaxed);
    }
    std::atomic_thread_fence(std::memory_order_acquire);
    const auto after = version_.load(std::memory_order_relaxed);
    if (before == after && before % 2 == 0) break;
  }
  std::array<char, kWords * 8 + 1> text{};
  std::memcpy(text.data(), words.data(), sizeof words);
  status.what = text.data();
  status.step = step_.load(std::memory_order_relaxed);
  status.in_call = in_call_.load(std::memory_order_relaxed);
  status.bucket = bucket_.load(std::memory_order_relaxed);
  status.waits_for = waits_for_.load(std::memory_order_relaxed);
  return status;
}

Verdict judge_wait(int asker, const Statuses& all) {
  Verdict verdict{.cause = "STALLED", .culprits = {}, .what = ""};
  for (std::size_t r = 0; r < all.size(); ++r) {
    if (!all[r]) verdict.culprits.push_back(static_cast<int>(r));
  }
  if (!verdict.culprits.empty()) {
    verdict.what = "did not answer";
    return verdict;
  }
  std::vector<int> chain{asker};
  for (;;) {
    const RankStatus& last = *all[static_cast<std::size_t>(chain.back())];
    const int next = last.waits_for;
    if (!last.in_call || next < 0 || next >= static_cast<int>(all.size())) {
      verdict.culprits = {chain.back()};
      verdict.what =
          fmt::format("has not come: for {:.1f} s it is in {}",
                      static_cast<double>(last.since_ms) / 1e3, last.text());
      return verdict;
    }
    const auto seen = std::ranges::find(chain, next);
    if (seen != chain.end()) return judge_ring({seen, chain.end()}, all);
    chain.push_back(next);
  }
}

std::optional<Verdict> judge_calls(int one, int other, const Statuses& all) {
  const auto& a = all[static_cast<std::size_t>(one)];
  const auto& b = all[static_cast<std::size_t>(other)];
  if (!a || !b || a->same_call(*b)) return std::nullopt;
  const std::size_t with_one = voters(all, *a), with_other = voters(all, *b);
  if (with_one == with_other) return std::nullopt;
  const bool odd_one = with_one < with_other;
  const RankStatus &odd = odd_one ? *a : *b, &most = odd_one ? *b : *a;
  Verdict verdict{.cause = "DESYNC", .culprits = {}, .what = ""};
  for (std::size_t r = 0; r < all.size(); ++r) {
    if (all[r] && all[r]->same_call(odd) &&
        (all[r]->in_call || static_cast<int>(r) == (odd_one ? one : other))) {
      verdict.culprits.push_back(static_cast<int>(r));
    }
  }
  verdict.what = fmt::format("made another call: {}, where {} ranks are in {}",
                             call_name(odd), std::max(with_one, with_other),
                             call_name(most));
  return verdict;
}

}  // namespace thinwire
