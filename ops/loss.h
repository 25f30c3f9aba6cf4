// Summed losses. Gradients are sums; the division by the summed weight of all
// ranks follows the exchange.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

namespace thinwire {

constexpr std::int64_t kIgnoredLabel = -100;

// logits fp32 [n, C], labels int64 [n] in [0, C) or -100 (ignored). -> scalar
// sum of -log softmax(logits)[label] over labels that are not ignored.
// smoothing e in [0, 1): of each row (1 - e) of that and e of the mean over all
// classes of -log softmax(logits), as torch and HF's LabelSmoother define it
// (fairseq leaves the label out of the mean).
at::Tensor cross_entropy_sum(const at::Tensor& logits, const at::Tensor& labels,
                             double smoothing = 0);
// The same per row, [n]; 0 where ignored.
at::Tensor cross_entropy_rows(const at::Tensor& logits,
                              const at::Tensor& labels);
// predictions, targets fp32 [n] -> scalar sum of squared differences.
at::Tensor squared_error_sum(const at::Tensor& predictions,
                             const at::Tensor& targets);

// labels int64 [rows]. Throws UsageError unless each is in [0, classes) or
// kIgnoredLabel.
void check_labels(const at::Tensor& labels, std::int64_t rows,
                  std::int64_t classes);

}  // namespace thinwire
