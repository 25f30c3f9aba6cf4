// Gradients at the positions of a mask, outside autograd. Where one is asked
// for few positions of a product, only those are computed (a sampled
// dense-dense product); where the positions fill rows, columns or the weight,
// the product of what they touch, in tiles that are gathered and forgotten.
//
// fp32, or bf16 operands with fp32 sums. Every grad is fp32 [k], contiguous,
// written (accumulate: added to, as for the uses of a tied weight). Sums run
// over rows in an order that depends on shapes and mask alone, not on threads;
// instruction sets (base/isa.h) round differently.
#pragma once

#include <ATen/core/Tensor.h>

#include <optional>

#include "ops/mask_plan.h"

namespace thinwire {

struct MaskedGradientOptions {
  bool accumulate = false;
  // dy holds the weight's rows [first_row, first_row + dy.size(1)) alone, as a
  // slice of a vocabulary; only positions in them are written.
  std::int64_t first_row = 0;
  std::optional<MaskPath> path = std::nullopt;  // none: choose_mask_path
};

// x [T, in], dy [T, out], rows contiguous, equal dtypes:
// grad (+)= (dy^T x)[index]. An empty plan costs nothing. T may be 0.
void masked_gradient(at::Tensor& grad, const MaskPlan& plan,
                     const at::Tensor& x, const at::Tensor& dy,
                     const MaskedGradientOptions& options = {});
// Its twin: the dense product, then the gather.
void masked_gradient_reference(at::Tensor& grad, const MaskPlan& plan,
                               const at::Tensor& x, const at::Tensor& dy,
                               const MaskedGradientOptions& options = {});

// Of an embedding [V, d] with that plan: tokens int64 [T] in [0, V) (throws
// UsageError naming the first that is not), dy [T, d] with contiguous rows.
// O(T log k + positions of the tokens' rows).
void masked_embedding_gradient(at::Tensor& grad, const MaskPlan& plan,
                               const at::Tensor& tokens, const at::Tensor& dy,
                               bool accumulate = false);

// Of a bias: column sums of dy [T, d] at index [k] (int32 or int64, ascending,
// in range).
void masked_bias_gradient(at::Tensor& grad, const at::Tensor& index,
                          const at::Tensor& dy, bool accumulate = false);

// Of a norm's weight: sums of dy * (x - mean) * inverse at index; x, dy [T, d]
// fp32 with contiguous rows, inverse fp32 [T], mean fp32 [T] or undefined
// (rms_norm).
void masked_norm_gradient(at::Tensor& grad, const at::Tensor& index,
                          const at::Tensor& dy, const at::Tensor& x,
                          const at::Tensor& mean, const at::Tensor& inverse,
                          bool accumulate = false);

}  // namespace thinwire
