#include "peft/budget_gates.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "base/error.h"
#include "base/random.h"
#include "ops/dropout.h"

namespace thinwire {
namespace {

double sigmoid(double x) { return 1 / (1 + std::exp(-x)); }
double logit(double p) { return std::log(p) - std::log1p(-p); }

double expected(std::span<const double> alpha, double shift,
                const GateBudget& budget) {
  double sum = 0;
  for (std::size_t i = 0; i < alpha.size(); ++i) {
    sum += static_cast<double>(budget.counts[i]) *
           sigmoid((alpha[i] - shift) / budget.temperature);
  }
  return sum;
}

}  // namespace

double shift_of(std::span<const double> alpha, const GateBudget& budget) {
  const auto all = static_cast<double>(
      std::reduce(budget.counts.begin(), budget.counts.end()));
  const double target =
      static_cast<double>(budget.numbers) * (1 - kBudgetSlack);
  THINWIRE_ASSERT(!alpha.empty() && target > 0 && target < all,
                  "{} gates of {} numbers, {} wanted", alpha.size(), all,
                  target);
  // Where every alpha were the least, or the largest, of them.
  const auto [least, most] = std::ranges::minmax(alpha);
  const double even = budget.temperature * logit(target / all);
  double low = least - even, high = most - even;
  for (;;) {
    const double middle = low + (high - low) / 2;
    if (middle <= low || middle >= high) return middle;
    (expected(alpha, middle, budget) > target ? low : high) = middle;
  }
}

std::vector<double> open_probabilities(std::span<const double> alpha,
                                       const GateBudget& budget) {
  const double shift = shift_of(alpha, budget);
  std::vector<double> p;
  p.reserve(alpha.size());
  for (const double a : alpha) {
    p.push_back(std::clamp(sigmoid((a - shift) / budget.temperature),
                           kBudgetSlack, 1 - kBudgetSlack));
  }
  return p;
}

std::vector<double> gate_noise(std::size_t n, std::uint64_t seed,
                               std::uint64_t step, std::uint32_t drawing) {
  static const std::uint32_t kSite = dropout_site("structure.gates");
  const PhiloxKey key = make_key(seed, Purpose::kDropout, step);
  std::vector<double> u;
  u.reserve(n);
  for (std::size_t i = 0; i < n; ++i) {
    const PhiloxBlock drawn =
        philox(key, {kSite, drawing, static_cast<std::uint32_t>(i), 0});
    u.push_back((static_cast<double>(drawn[0]) + 0.5) * 0x1.0p-32);
  }
  return u;
}

std::vector<double> concrete_gates(std::span<const double> p,
                                   std::span<const double> u) {
  std::vector<double> z;
  z.reserve(p.size());
  for (std::size_t i = 0; i < p.size(); ++i) {
    z.push_back(sigmoid(logit(u[i]) + logit(p[i])));
  }
  return z;
}

std::vector<double> alpha_gradient(std::span<const double> p,
                                   std::span<const double> z,
                                   std::span<const double> dz,
                                   const GateBudget& budget) {
  const double sum = std::reduce(p.begin(), p.end());
  std::vector<double> dp(p.size());
  double common = 0;
  for (std::size_t i = 0; i < p.size(); ++i) {
    dp[i] = dz[i] * z[i] * (1 - z[i]) / (p[i] * (1 - p[i]));
    common += dp[i] * p[i] / sum;
  }
  for (std::size_t i = 0; i < p.size(); ++i) {
    dp[i] = (dp[i] - common) * p[i] * (1 - p[i]) / budget.temperature;
  }
  return dp;
}

std::vector<int> within_budget(std::span<const double> p,
                               const GateBudget& budget) {
  std::vector<int> order(p.size());
  std::iota(order.begin(), order.end(), 0);
  std::ranges::stable_sort(order, std::greater{}, [&](int i) {
    return p[static_cast<std::size_t>(i)];
  });
  std::int64_t left = budget.numbers;
  std::vector<int> kept;
  for (const int i : order) {
    const std::int64_t count = budget.counts[static_cast<std::size_t>(i)];
    if (count > left) continue;
    left -= count;
    kept.push_back(i);
  }
  std::ranges::sort(kept);
  return kept;
}

}  // namespace thinwire
