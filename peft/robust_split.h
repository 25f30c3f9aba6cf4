// Where a matrix is least like one of low rank: what a greedy bilateral
// decomposition W = u v + S + (what is small) leaves beside the low rank.
// Zhou & Tao 2013, "Greedy bilateral sketch, completion & smoothing", as the
// code of Chen et al. 2023 (DSEE) runs it: rounds of two alternations each, in
// which S holds what lies 0.01 or more beside u v; after a round the rank grows
// by five.
// Differs: in double precision, since a round makes ten times as much of what
// rounding did before; the rank stays below the matrix's own, and rounds end
// when S has fewer numbers than are asked for, where nothing is left to tell
// apart.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

namespace thinwire {

// |W - u v| of the last round, double, of the shape of `weight` [m, n] and in
// the CPU's memory. numbers: how many of S are of interest. Begins at numbers
// drawn from `seed` alone, the same for every matrix.
at::Tensor beside_low_rank(const at::Tensor& weight, std::int64_t numbers,
                           std::int64_t rounds, std::uint64_t seed);

}  // namespace thinwire
