// Optimizers as one pass over flat fp32 vectors: the gradient's scale, the
// step, and the write into masked weights (`writes`, of the same vectors, whose
// numbers begin at 0). The same bits for every thread count.
#pragma once

#include <cstdint>
#include <span>

#include "ops/masked_write.h"

namespace thinwire {

// Loshchilov & Hutter 2019, "Decoupled weight decay regularization", alg. 2.
struct AdamwStep {
  double lr, beta1, beta2, epsilon, weight_decay;
  std::int64_t step;  // from 1, for bias correction
  double grad_scale;  // multiplies the gradient first (1/weight, clipping)
};
// All [n]. In place: values, m, v. decay_towards: null is zero.
void adamw_pass(float* values, const float* grads, float* m, float* v,
                const float* decay_towards, std::int64_t n, const AdamwStep& s,
                std::span<const MaskedWrite> writes = {});

// The same where numbers began at different steps: s.step is not read, each
// number has its corrections beside it, the averages of as many ones as its m
// and v are averages of gradients: 1 - beta1^steps and 1 - beta2^steps, zero
// before its first step.
void adamw_pass_by_age(float* values, const float* grads, float* m, float* v,
                       float* correction1, float* correction2,
                       const float* decay_towards, std::int64_t n,
                       const AdamwStep& s,
                       std::span<const MaskedWrite> writes = {});

struct SgdStep {
  double lr, momentum, weight_decay, grad_scale;
  bool nesterov;
};
// velocity may be null when momentum is 0.
void sgd_pass(float* values, const float* grads, float* velocity,
              const float* decay_towards, std::int64_t n, const SgdStep& s,
              std::span<const MaskedWrite> writes = {});

// Chen et al. 2023, "Symbolic discovery of optimization algorithms", alg. 2.
struct LionStep {
  double lr, beta1, beta2, weight_decay, grad_scale;
};
void lion_pass(float* values, const float* grads, float* momentum,
               const float* decay_towards, std::int64_t n, const LionStep& s,
               std::span<const MaskedWrite> writes = {});

// The same steps as the numbers that ops/optimizer_elements.h works with, for
// kernels elsewhere.
struct AdamwFactors;
struct LionFactors;
struct SgdFactors;
AdamwFactors adamw_factors(const AdamwStep& s);
LionFactors lion_factors(const LionStep& s);
SgdFactors sgd_factors(const SgdStep& s);

// Sum of squares in fp64, in fixed blocks: the same for every thread count.
double sum_of_squares(const float* x, std::int64_t n);
bool all_finite(const float* x, std::int64_t n);

}  // namespace thinwire
