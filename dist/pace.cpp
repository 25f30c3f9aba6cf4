#include "dist/pace.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <functional>
#include <numeric>
#include <utility>
#include <vector>

#include "base/error.h"
#include "comm/communicator.h"

namespace thinwire {
namespace {

constexpr double kBehind = 1.5;

// What it is compared with, by total time: half the ranks are as fast.
Pace middle(std::span<const Pace> ranks) {
  std::vector<Pace> sorted(ranks.begin(), ranks.end());
  const auto at =
      sorted.begin() + static_cast<std::ptrdiff_t>((sorted.size() - 1) / 2);
  std::ranges::nth_element(sorted, at, {}, &Pace::total);
  return *at;
}

}  // namespace

double Pace::total() const {
  return std::accumulate(parts.begin(), parts.end(), 0.0);
}

int find_straggler(std::span<const Pace> ranks) {
  const double usual = middle(ranks).total();
  const auto slowest = std::ranges::max_element(ranks, {}, &Pace::total);
  if (slowest->total() < kBehind * usual) return -1;
  return static_cast<int>(slowest - ranks.begin());
}

void PaceWatch::count(const StepRecord& record) {
  ++steps_;
  const std::array<double, Pace::kParts.size()> parts = {
      record.data_ms, record.forward_ms, record.backward_ms,
      record.optimizer_ms};
  std::ranges::transform(mine_.parts, parts, mine_.parts.begin(), std::plus());
}

std::string PaceWatch::compare(Communicator& comm) {
  if (steps_ < kSteps || comm.size() == 1) return "";
  const auto steps = static_cast<double>(std::exchange(steps_, 0));
  const auto all =
      comm.all_gather_v(std::as_bytes(std::span(&mine_, 1)), {.tag = "pace"});
  mine_ = {};
  std::vector<Pace> ranks(all.size());
  for (std::size_t r = 0; r < all.size(); ++r) {
    THINWIRE_ASSERT(all[r].size() == sizeof(Pace), "{} bytes", all[r].size());
    std::memcpy(&ranks[r], all[r].data(), sizeof(Pace));
  }
  const int rank = find_straggler(ranks);
  if (std::exchange(named_, rank) == rank || rank < 0) return "";
  const Pace& slow = ranks[static_cast<std::size_t>(rank)];
  const Pace usual = middle(ranks);
  std::size_t part = 0;
  for (std::size_t i = 1; i < Pace::kParts.size(); ++i) {
    if (slow.parts[i] - usual.parts[i] > slow.parts[part] - usual.parts[part]) {
      part = i;
    }
  }
  return fmt::format(
      "the others wait for rank {}: it works {:.0f} ms a step, {:.1f} times as "
      "long as the middle rank, mostly over {} ({:.0f} and {:.0f} ms)",
      rank, slow.total() / steps, slow.total() / usual.total(),
      Pace::kParts[part], slow.parts[part] / steps, usual.parts[part] / steps);
}

}  // namespace thinwire
