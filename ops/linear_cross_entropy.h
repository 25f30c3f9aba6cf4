// Cross-entropy of hidden states through an output matrix, without the logits:
// they exist a tile at a time (or, where the matrix trains, one block of rows
// at a time). Ignored rows are left out before anything is multiplied.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <functional>
#include <vector>

namespace thinwire {

// Some rows of hidden, ascending, as they meet the output matrix.
struct LossRows {
  std::vector<std::int64_t> rows;  // [n']
  at::Tensor x;                    // fp32 [n', d]: scale hidden
  at::Tensor dy;  // fp32 [n', V], columns contiguous (strides 1, lanes)
};

struct LinearCrossEntropyOptions {
  double scale = 1;      // of hidden; T5 1.0: d^-0.5
  double smoothing = 0;  // as cross_entropy_sum() has it
  // Where only entries of W train, or something is made of W's gradient: the
  // values, a leaf fp32 [k]. `sampled` adds to grad [k] what dy^T x is at them;
  // called once per block of rows, in order, with no graph recorded: with the
  // loss, or (`late`) in backward, until which dy is kept.
  at::Tensor values = {};
  std::function<void(at::Tensor& grad, const LossRows& block)> sampled = {};
  bool late = false;
};

// hidden fp32 [n, d], rounded to the type of weight [V, d], fp32 or bf16;
// labels int64 [n] in [0, V) or -100 (ignored), else UsageError. -> scalar sum
// of -log softmax(scale hidden weight^T)[label], or of that smoothed.
// Differentiable once in hidden, weight and values: the gradients are computed
// with the loss where the graph is recorded, and kept (fp32 [n, d]; [V, d] if
// weight trains) until backward.
at::Tensor linear_cross_entropy(const at::Tensor& hidden,
                                const at::Tensor& weight,
                                const at::Tensor& labels,
                                const LinearCrossEntropyOptions& options = {});

// Per row, outside autograd: the loss, 0 where ignored; the likeliest token, -1
// where ignored.
struct TokenLosses {
  at::Tensor loss;  // fp32 [n]
  at::Tensor best;  // int64 [n]
};
TokenLosses linear_cross_entropy_rows(const at::Tensor& hidden,
                                      const at::Tensor& weight,
                                      const at::Tensor& labels,
                                      double scale = 1);

}  // namespace thinwire
