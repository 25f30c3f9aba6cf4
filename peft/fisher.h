// Scores of single numbers of the frozen weights: the diagonal of the Fisher
// information, estimated from gradients of one example at a time.
// Sung, Nair & Raffel 2021, "Training neural networks with fixed sparse
// masks", sec. 3.1.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <span>
#include <vector>

#include "peft/method.h"

namespace thinwire {

// For each slot, fp32 of its shape: the sum over `samples` examples of all
// ranks of squared gradients, each example's own (labels of the data), or
// weighted by the model's probability of each label. Equal on every rank.
// Memory: one fp32 number per scored one, and one example's gradients. The
// slots must be frozen (Delta::unbind), and are so afterwards; gradients of
// what else requires them are left for the caller to clear.
std::vector<at::Tensor> fisher_scores(const Backbone& backbone,
                                      std::span<const int> slots,
                                      Scoring& scoring, std::int64_t samples,
                                      Scoring::Labels labels);

// floor(density * n), density a decimal number of at most 9 digits after the
// point, without the rounding of a floating-point product.
std::int64_t exact_share(double density, std::int64_t n);

// scores[i] += weight * grads[i]^2. A stretch of grads that is all zero (rows
// of an embedding that the example does not touch) costs one read.
void add_squares(float* scores, const float* grads, std::int64_t n,
                 float weight);

}  // namespace thinwire
