// Cross-entropy of a block of rows against a whole output matrix, tile by tile
// over the vocabulary. As in FlashAttention (Dao et al. 2022) the softmax runs
// ahead of its normaliser: a tile of logits is exponentiated against the
// largest logit so far and multiplied at once by the tile of W it came from,
// which is still in cache. Internal to ops/.
//
// The numbers depend neither on the count of threads nor on the instruction
// set, the micro-kernel's products aside.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

namespace thinwire {

// Rows go through in blocks of about this many.
constexpr std::int64_t kVocabularyRows = 128;

// What to compute besides the losses.
struct VocabularyWants {
  bool hidden_grad = false;  // of the summed loss
  bool probabilities = false;
  bool best = false;  // the likeliest token
  // Of the label. The mean of a row's logits is x times the mean row of W, so
  // that the loss is smoothed without another look at the logits.
  double smoothing = 0;
  at::Tensor mean_row = {};  // mean_row(w), if smoothing is not 0
};

struct VocabularyResult {
  std::vector<double> loss;        // [n]
  std::vector<std::int64_t> best;  // [n], lowest of equals
  at::Tensor hidden_grad;          // fp32 [n, d]
  // softmax - onehot (smoothed: - (1 - e) onehot - e / V), fp32 [V, lanes],
  // lanes >= n; 0 in lanes of no row.
  at::Tensor logit_grad;
};

// w [V, d], fp32 or bf16 -> fp32 [d].
at::Tensor mean_row(const at::Tensor& w);

// x fp32 [n, d], contiguous; w [V, d], fp32 or bf16, contiguous; labels int64
// [n], each in [0, V). n >= 1; meant for about kVocabularyRows.
VocabularyResult vocabulary_pass(const at::Tensor& x, const at::Tensor& w,
                                 const std::int64_t* labels,
                                 const VocabularyWants& wants);

// grad += (or =) logit_grad x: the gradient of W, fp32 [V, d].
void add_weight_grad(at::Tensor& grad, const at::Tensor& logit_grad,
                     const at::Tensor& x, bool add);

}  // namespace thinwire
