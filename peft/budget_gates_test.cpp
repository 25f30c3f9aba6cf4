// Gates and their budget, against closed forms.
#include "peft/budget_gates.h"

#include <gtest/gtest.h>

#include <cmath>
#include <numeric>

#include "base/random.h"

namespace thinwire {
namespace {

using Numbers = std::vector<double>;

double sigmoid(double x) { return 1 / (1 + std::exp(-x)); }

double drawn(std::uint32_t i, std::uint32_t of) {
  return uniform01(philox(make_key(8, Purpose::kTest), {i, of, 0, 0})[0]);
}

struct Case {
  Numbers alpha;
  GateBudget budget;
};

// As many modules as the paper's, of its sizes.
Case many(double share, double temperature) {
  Case c;
  for (std::uint32_t i = 0; i < 916; ++i) {
    c.alpha.push_back(8 * drawn(i, 0) - 4);
    constexpr std::int64_t kSizes[] = {1024, 2048, 3168, 4096, 5120};
    c.budget.counts.push_back(
        kSizes[static_cast<std::size_t>(5 * drawn(i, 1))]);
  }
  c.budget.numbers = static_cast<std::int64_t>(
      share * static_cast<double>(
                  std::reduce(c.budget.counts.begin(), c.budget.counts.end())));
  c.budget.temperature = temperature;
  return c;
}

TEST(BudgetGates, ExpectedNumbersAreTheBudget) {
  for (const double share : {1e-3, 0.07, 0.5, 0.999}) {
    for (const double temperature : {0.05, 1.0, 7.0}) {
      const Case c = many(share, temperature);
      const double shift = shift_of(c.alpha, c.budget);
      double sum = 0;
      for (std::size_t i = 0; i < c.alpha.size(); ++i) {
        sum += static_cast<double>(c.budget.counts[i]) *
               sigmoid((c.alpha[i] - shift) / temperature);
      }
      const auto numbers = static_cast<double>(c.budget.numbers);
      EXPECT_NEAR(sum / (numbers * (1 - kBudgetSlack)), 1, 1e-12)
          << share << " " << temperature;
    }
  }
}

// Equal alpha: p is the budget's share of all numbers.
TEST(BudgetGates, EqualAlphaShareTheBudget) {
  const GateBudget budget{{10, 30, 60}, 25, 2};
  for (const double p : open_probabilities(Numbers{3, 3, 3}, budget)) {
    EXPECT_NEAR(p, 0.25 * (1 - kBudgetSlack), 1e-12);
  }
  EXPECT_NEAR(shift_of(Numbers{3, 3, 3}, budget), 3 - 2 * std::log(0.25 / 0.75),
              1e-6);
}

TEST(BudgetGates, ANumberAddedToEveryAlphaChangesNothing) {
  Case c = many(0.1, 1);
  const Numbers before = open_probabilities(c.alpha, c.budget);
  for (double& a : c.alpha) a += 100;
  const Numbers after = open_probabilities(c.alpha, c.budget);
  for (std::size_t i = 0; i < before.size(); ++i) {
    EXPECT_NEAR(after[i], before[i], 1e-11);
  }
}

// P(z > 1/2) = p, and a noise of 1/2 gives p itself.
TEST(BudgetGates, GatesAreOpenWithTheirProbability) {
  const Numbers p = {0.03, 0.5, 0.9};
  const Numbers same = concrete_gates(p, Numbers{0.5, 0.5, 0.5});
  for (std::size_t i = 0; i < p.size(); ++i) EXPECT_NEAR(same[i], p[i], 1e-15);
  Numbers open(p.size(), 0);
  constexpr int kSteps = 20000;
  for (std::uint64_t step = 0; step < kSteps; ++step) {
    const Numbers z = concrete_gates(p, gate_noise(p.size(), 5, step, 0));
    for (std::size_t i = 0; i < p.size(); ++i) open[i] += z[i] > 0.5;
  }
  for (std::size_t i = 0; i < p.size(); ++i) {
    // Five standard deviations.
    EXPECT_NEAR(open[i] / kSteps, p[i],
                5 * std::sqrt(p[i] * (1 - p[i]) / kSteps));
  }
}

TEST(BudgetGates, NoiseIsAFunctionOfSeedStepAndDrawing) {
  const Numbers u = gate_noise(4, 1, 2, 0);
  EXPECT_EQ(gate_noise(4, 1, 2, 0), u);
  EXPECT_NE(gate_noise(4, 2, 2, 0), u);
  EXPECT_NE(gate_noise(4, 1, 3, 0), u);
  EXPECT_NE(gate_noise(4, 1, 2, 1), u);
  const Numbers longer = gate_noise(9, 1, 2, 0);
  EXPECT_TRUE(std::equal(u.begin(), u.end(), longer.begin()));
  for (const double x : longer) {
    EXPECT_GT(x, 0);
    EXPECT_LT(x, 1);
  }
}

// By differences, of loss = sum w_i z_i at the shift and the sum of p that the
// gradient holds still.
TEST(BudgetGates, GradientsAgreeWithDifferences) {
  const GateBudget budget{{3, 5, 2, 7}, 6, 1.5};
  const Numbers alpha = {0.3, -1, 2, 0.1}, u = {0.2, 0.7, 0.4, 0.9},
                w = {1, -2, 0.5, 3};
  const double shift = shift_of(alpha, budget);
  const auto p_at = [&](const Numbers& a) {
    Numbers p;
    for (const double x : a) p.push_back(sigmoid((x - shift) / 1.5));
    return p;
  };
  const Numbers p = p_at(alpha);
  const double total = std::reduce(p.begin(), p.end());
  const auto loss = [&](const Numbers& a) {
    Numbers q = p_at(a);
    const double sum = std::reduce(q.begin(), q.end());
    for (double& x : q) x *= total / sum;
    const Numbers z = concrete_gates(q, u);
    return std::inner_product(w.begin(), w.end(), z.begin(), 0.0);
  };
  const Numbers found = alpha_gradient(p, concrete_gates(p, u), w, budget);
  for (std::size_t i = 0; i < alpha.size(); ++i) {
    constexpr double kStep = 1e-5;
    Numbers more = alpha, less = alpha;
    more[i] += kStep;
    less[i] -= kStep;
    EXPECT_NEAR(found[i], (loss(more) - loss(less)) / (2 * kStep), 1e-9) << i;
  }
}

// From the likeliest down; what does not fit is passed over, and what comes
// behind it may fit.
TEST(BudgetGates, TheSelectionNeverExceedsTheBudget) {
  const GateBudget small{{5, 4, 3, 2, 2}, 9, 1};
  EXPECT_EQ(within_budget(Numbers{0.1, 0.9, 0.3, 0.5, 0.5}, small),
            (std::vector<int>{1, 3, 4}));
  EXPECT_EQ(within_budget(Numbers{0.9, 0.8, 0.7, 0.1, 0.2}, small),
            (std::vector<int>{0, 1}));
  EXPECT_EQ(within_budget(Numbers{0.9, 0.1, 0.8, 0.3, 0.3}, small),
            (std::vector<int>{0, 2}));
  for (const double share : {1e-3, 0.07, 0.5}) {
    const Case c = many(share, 1);
    std::int64_t sum = 0;
    const std::vector<int> kept =
        within_budget(open_probabilities(c.alpha, c.budget), c.budget);
    for (const int i : kept) {
      sum += c.budget.counts[static_cast<std::size_t>(i)];
    }
    EXPECT_LE(sum, c.budget.numbers);
    // Less is left than the smallest module has.
    EXPECT_GT(sum, c.budget.numbers - 1024) << share;
    EXPECT_TRUE(std::is_sorted(kept.begin(), kept.end()));
  }
}

}  // namespace
}  // namespace thinwire
