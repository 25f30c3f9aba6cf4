// Which of n modules of different size to keep, while it is learned how much
// each is worth: gates between 0 and 1 whose expected numbers are a budget.
// Hu et al. 2022, "Sparse structure search for delta tuning", sec. 3.2: shifted
// global sigmoid and binary concrete gates (Maddison et al. 2017) at
// temperature 1. alpha [n] is learned; module i has count[i] numbers.
//   p_i = sigmoid((alpha_i - zeta) / temperature), sum count_i p_i = B (1 -
//   eps) z_i = sigmoid(logit(u_i) + logit(p_i)), u_i uniform in (0, 1)
// All in fp64, functions of their arguments alone, so the same on every rank.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace thinwire {

struct GateBudget {
  std::vector<std::int64_t> counts;  // [n]
  std::int64_t numbers = 0;          // B, less than the sum of counts
  double temperature = 1;
};

inline constexpr double kBudgetSlack = 1e-7;  // eps

// zeta. There is one: the left side falls from the sum of counts to 0. Found to
// the last bit by bisection.
double shift_of(std::span<const double> alpha, const GateBudget& budget);
// p [n], kept kBudgetSlack away from 0 and 1.
std::vector<double> open_probabilities(std::span<const double> alpha,
                                       const GateBudget& budget);
// u [n], a function of seed, step and the number of the drawing in the step.
std::vector<double> gate_noise(std::size_t n, std::uint64_t seed,
                               std::uint64_t step, std::uint32_t drawing);
// z [n].
std::vector<double> concrete_gates(std::span<const double> p,
                                   std::span<const double> u);
// d loss / d alpha from `dz`, d loss / d z [n]. zeta counts as a constant, and
// p as p / (sum of p) times what that sum is now, so that gates compete: a
// gradient that is the same for all of them moves none.
std::vector<double> alpha_gradient(std::span<const double> p,
                                   std::span<const double> z,
                                   std::span<const double> dz,
                                   const GateBudget& budget);

// The modules kept in the end, ascending: from the largest p down, each that
// still fits; of equal p the first. Never more than `numbers` in all.
std::vector<int> within_budget(std::span<const double> p,
                               const GateBudget& budget);

}  // namespace thinwire
