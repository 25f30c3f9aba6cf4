// Scores of single numbers of the frozen weights: the diagonal of the Fisher
// information, the sum of every example's own squared gradient, taken from
// batched passes (ops/squared_gradient.h); and the gradient itself, in the same
// way.
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
// Memory: one fp32 number per scored one, and what a batch keeps for backward;
// no gradient of a scored weight. The slots must be frozen (Delta::unbind), and
// are so afterwards; gradients of what else requires them are left for the
// caller to clear.
std::vector<at::Tensor> fisher_scores(const Backbone& backbone,
                                      std::span<const int> slots,
                                      Scoring& scoring, std::int64_t samples,
                                      Scoring::Labels labels);

// Likewise the gradient of the summed loss of `samples` examples of all ranks.
std::vector<at::Tensor> summed_gradients(const Backbone& backbone,
                                         std::span<const int> slots,
                                         Scoring& scoring,
                                         std::int64_t samples);

}  // namespace thinwire
