// Shazeer & Stern 2018, "Adafactor: adaptive learning rates with sublinear
// memory cost", alg. 4 and 5, over one entry of the flat vector; in the form of
// transformers.Adafactor: decoupled weight decay, and a first moment (of the
// clipped update, not corrected) where beta1 is given.
//
// Update clipping asks for the mean square of the whole update before any of it
// is applied, so an entry is read more than once, from cache where it fits: a
// vector twice, a matrix three times (and once more for scale_parameter).
#pragma once

#include <cstdint>
#include <span>

#include "ops/masked_write.h"

namespace thinwire {

struct AdafactorStep {
  double lr;  // external; relative_step is the caller's
  double beta1;
  double clip_threshold;  // largest root mean square of an update
  double decay_rate;      // beta2 = 1 - step^decay_rate
  double epsilon1;        // added to squared gradients
  double epsilon2;        // least scale of a parameter
  double weight_decay;
  bool scale_parameter;  // lr times the root mean square of the values
  std::int64_t step;     // from 1
  double grad_scale;     // multiplies the gradient first (1/weight, clipping)
};

// All [n]. In place: values, v, m (null: no first moment). decay_towards: null
// is zero. ages: null, or where numbers began at different steps the step of
// each, as s.step; zero is as one.
void adafactor_pass(float* values, const float* grads, float* m, float* v,
                    const float* ages, const float* decay_towards,
                    std::int64_t n, const AdafactorStep& s,
                    std::span<const MaskedWrite> writes = {});

// A stack of `matrices` of [rows, columns]; second moments row_v [matrices,
// rows] and column_v [matrices, columns].
void adafactor_pass_factored(float* values, const float* grads, float* m,
                             float* row_v, float* column_v,
                             const float* decay_towards, std::int64_t matrices,
                             std::int64_t rows, std::int64_t columns,
                             const AdafactorStep& s);

}  // namespace thinwire
