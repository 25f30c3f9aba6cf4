#include "comm/link_model.h"

#include <ATen/core/Tensor.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <bit>
#include <chrono>
#include <cstring>
#include <map>
#include <vector>

#include "base/error.h"
#include "comm/combine.h"
#include "comm/communicator.h"

namespace thinwire {
namespace {

using Seconds = std::chrono::duration<double>;

template <class Body>
double seconds_of(Body body) {
  const auto begin = std::chrono::steady_clock::now();
  body();
  return Seconds(std::chrono::steady_clock::now() - begin).count();
}

double measure_gamma() {
  std::vector<float> a(64 * 1024, 1.0f), b = a;
  double best = 1;
  for (int i = 0; i < 5; ++i) {
    best = std::min(best, seconds_of([&] {
                      combine(ReduceOp::kSum, Element::kFloat32,
                              reinterpret_cast<const std::byte*>(a.data()),
                              reinterpret_cast<const std::byte*>(b.data()),
                              reinterpret_cast<std::byte*>(a.data()), a.size());
                    }));
  }
  return best / static_cast<double>(4 * a.size());
}

// Whether several hosts hold equally many ranks, two or more.
bool evenly_spread(std::span<const int> hosts) {
  std::map<int, int> held;
  for (const int host : hosts) ++held[host];
  return held.size() > 1 && held.begin()->second > 1 &&
         std::ranges::all_of(held, [&](const auto& host) {
           return host.second == held.begin()->second;
         });
}

// Whether the ranks of each host follow each other.
bool in_blocks(std::span<const int> hosts) {
  return std::ranges::is_sorted(hosts);
}

// One small exchange must not cost more bytes than this share saves.
constexpr std::int64_t kLeastBucket = 32 * 1024;
constexpr double kStartupShare = 0.1;
// What a rank receives at most to measure its link; more than one message each
// way where there are many ranks.
constexpr double kProbeBytes = 1 << 20;

}  // namespace

LinkModel or_planning_values(const LinkModel& link) noexcept {
  return link == LinkModel{} ? LinkModel{20e-6, 1e-9, 0.25e-9} : link;
}

double predict_seconds(const LinkModel& link, Algorithm algorithm, int ranks,
                       std::int64_t bytes) {
  if (ranks == 1) return 0;
  const auto n = static_cast<double>(bytes);
  const auto core =
      static_cast<int>(std::bit_floor(static_cast<unsigned>(ranks)));
  const double rounds = std::bit_width(static_cast<unsigned>(core)) - 1;
  const double message = link.alpha + n * link.beta;
  // Ranks beyond a power of two hand all over first, and get all last.
  const double fold = core == ranks ? 0 : 2 * message + n * link.gamma;
  const double share = (core - 1.0) / core;
  switch (algorithm) {
    case Algorithm::kDoubling:
      return rounds * (message + n * link.gamma) + fold;
    case Algorithm::kHalvingDoubling:
      return 2 * rounds * link.alpha +
             share * n * (2 * link.beta + link.gamma) + fold;
    case Algorithm::kRing:
    case Algorithm::kTwoLevel:
      return 2 * (ranks - 1) * link.alpha +
             (ranks - 1.0) / ranks * n * (2 * link.beta + link.gamma);
    case Algorithm::kAuto:
    case Algorithm::kMpi:
      break;
  }
  fail<InternalError>("no prediction for algorithm '{}'", name_of(algorithm));
}

Algorithm choose_algorithm(const LinkModel& link, int ranks, std::int64_t bytes,
                           std::span<const int> hosts) {
  const LinkModel model = or_planning_values(link);
  const bool power = std::has_single_bit(static_cast<unsigned>(ranks));
  const bool sparing = bytes >= kFewestBytesFrom;
  if (sparing && !power && evenly_spread(hosts)) return Algorithm::kTwoLevel;
  if (sparing && power && evenly_spread(hosts) && !in_blocks(hosts)) {
    return Algorithm::kTwoLevel;
  }
  Algorithm best = Algorithm::kRing;
  const auto consider = [&](Algorithm other) {
    if (predict_seconds(model, other, ranks, bytes) <
        predict_seconds(model, best, ranks, bytes)) {
      best = other;
    }
  };
  if (power || !sparing) consider(Algorithm::kHalvingDoubling);
  if (ranks <= 2 || !sparing) consider(Algorithm::kDoubling);
  return best;
}

std::int64_t choose_bucket_bytes(const LinkModel& link, int ranks,
                                 std::int64_t total_bytes) {
  if (ranks == 1) return total_bytes;
  const LinkModel model = or_planning_values(link);
  const auto startup = [&](std::int64_t bytes) {
    const Algorithm algorithm = choose_algorithm(model, ranks, bytes);
    return predict_seconds({model.alpha, 0, 0}, algorithm, ranks, bytes) /
           predict_seconds(model, algorithm, ranks, bytes);
  };
  std::int64_t bytes = kLeastBucket;
  while (bytes < total_bytes && startup(bytes) > kStartupShare) bytes *= 2;
  return std::min(bytes, total_bytes);
}

LinkModel measure_link(Communicator& comm, double seconds) {
  LinkModel link{0, 0, measure_gamma()};
  const int ranks = comm.size();
  const auto ring = [&](at::Tensor& data) {
    comm.all_reduce(data, ReduceOp::kSum,
                    {.tag = "link", .algorithm = Algorithm::kRing});
  };
  if (ranks > 1) {
    const double hops = 2 * (ranks - 1);
    const auto begin = std::chrono::steady_clock::now();
    at::Tensor small = at::zeros({ranks});
    std::vector<double> times;
    for (int i = 0; i < 25; ++i) {
      times.push_back(seconds_of([&] { ring(small); }));
    }
    std::ranges::sort(times);
    link.alpha = std::max(1e-9, times[times.size() / 2] / hops);
    // Rank 0's clock says for all when it is enough.
    std::int64_t goes_on = 1;
    double received = 0;
    for (std::int64_t count = 4096 * ranks; goes_on != 0; count *= 2) {
      at::Tensor data = at::zeros({count});
      const double took = seconds_of([&] { ring(data); });
      const double chunk = 4.0 * static_cast<double>(count) / ranks;
      link.beta = std::max(
          1e-12, (took - hops * link.alpha) / (hops * chunk) - link.gamma / 2);
      received += hops * chunk;
      goes_on = Seconds(std::chrono::steady_clock::now() - begin).count() <
                    seconds / 2 &&
                received + 2 * hops * chunk <= kProbeBytes;
      const auto said = comm.broadcast_bytes(
          comm.rank() == 0 ? std::as_bytes(std::span(&goes_on, 1))
                           : std::span<const std::byte>(),
          0, {.tag = "link"});
      std::memcpy(&goes_on, said.data(), sizeof goes_on);
    }
  }
  const auto said =
      comm.broadcast_bytes(comm.rank() == 0 ? std::as_bytes(std::span(&link, 1))
                                            : std::span<const std::byte>(),
                           0, {.tag = "link"});
  THINWIRE_ASSERT(said.size() == sizeof link, "{} bytes", said.size());
  std::memcpy(&link, said.data(), sizeof link);
  return link;
}

}  // namespace thinwire
