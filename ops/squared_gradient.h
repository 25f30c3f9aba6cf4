// Squared gradients of one weight, each sequence's own, out of one batched
// backward pass: what the diagonal of the Fisher information sums (Sung, Nair &
// Raffel 2021, "Training neural networks with fixed sparse masks", sec. 3.1).
// No sequence's gradient is ever stored: it exists one cache-resident tile at a
// time, and each tile of the sum is read and written once for all sequences.
// The plain gradient is added up in the same way.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <span>
#include <vector>

namespace thinwire {

// One use of a weight [m, n] in a pass over B sequences, T rows laid end to
// end: of sequence b rows offsets[b] … offsets[b + 1].
//   product:  y = x W^T, x [T, n], dy [T, m]; the gradient is dy^T x
//   look-up:  y[t] = W[rows[t]], dy [T, n]; rows int64 [T], negative: nothing
// fp32; rows of x and dy are contiguous, or a product's columns of dy.
struct WeightUse {
  at::Tensor x;     // product
  at::Tensor rows;  // look-up
  at::Tensor dy;
  std::vector<std::int64_t> offsets;  // [B + 1]
};

// squares [m, n], contiguous fp32, += sum over b of
// weights[b] * (sum over uses of the gradient of sequence b)^2, element by
// element. weights [B]; every use has the same B. Look-ups alone touch no other
// rows. The same bits for any number of threads.
void add_squared_gradients(at::Tensor squares, std::span<const WeightUse> uses,
                           std::span<const float> weights);

// sums [m, n], contiguous fp32, += the gradient of all sequences together, over
// all uses.
void add_gradients(at::Tensor sums, std::span<const WeightUse> uses);

// rows [T, n] -> [B, n]: the sum of each sequence's rows, in their order.
at::Tensor sequence_sums(const at::Tensor& rows,
                         std::span<const std::int64_t> offsets);

// Their twins, which also serve tensors off the CPU.
void add_squared_gradients_reference(at::Tensor squares,
                                     std::span<const WeightUse> uses,
                                     std::span<const float> weights);
void add_gradients_reference(at::Tensor sums, std::span<const WeightUse> uses);
at::Tensor sequence_sums_reference(const at::Tensor& rows,
                                   std::span<const std::int64_t> offsets);

// squares[i] += weight * grads[i]^2.
void add_squares(float* squares, const float* grads, std::int64_t n,
                 float weight);

}  // namespace thinwire
