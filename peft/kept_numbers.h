// Which numbers of several tensors are kept, by their scores: sorted positions
// in each, int32. Everything here is a function of its arguments, the same on
// every rank.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <span>
#include <vector>

namespace thinwire {

// floor(density * n), density a decimal number of at most 9 digits after the
// point, without the rounding of a floating-point product.
std::int64_t exact_share(double density, std::int64_t n);

// k in parts proportional to the weights: floors, and the largest remainders
// one more, equal ones in their order. Weights >= 0; one of
// them positive, unless k is 0.
std::vector<std::int64_t> shares_of(std::int64_t k,
                                    std::span<const std::int64_t> weights);

// How many of k numbers each tensor keeps when its kept share goes as (sum of
// its dimensions) / (their product), and is at most all of it. k in all.
// Mocanu et al. 2018, "Scalable training of artificial neural networks with
// adaptive sparse connectivity inspired by network science", eq. 3.
std::vector<std::int64_t> erdos_renyi_quotas(
    std::span<const std::vector<std::int64_t>> shapes, std::int64_t k);

// The k largest of all tensors' scores together, equal ones by tensor and
// position: contiguous fp32 in the CPU's memory, of either sign. Throws
// UsageError where one is not finite.
std::vector<at::Tensor> keep_largest(std::span<const at::Tensor> scores,
                                     std::int64_t k);
// The quotas[i] largest of scores[i].
std::vector<at::Tensor> keep_quotas(std::span<const at::Tensor> scores,
                                    std::span<const std::int64_t> quotas);

}  // namespace thinwire
