#define TORCH_ASSERT_ONLY_METHOD_OPERATORS
#include "ops/loss.h"

#include <ATen/core/Reduction.h>
#include <ATen/ops/log_softmax.h>
#include <ATen/ops/nll_loss.h>

#include <cstdint>

#include "base/error.h"

namespace thinwire {
namespace {

at::Tensor cross_entropy(const at::Tensor& logits, const at::Tensor& labels,
                         at::Reduction::Reduction reduction) {
  const std::int64_t n = logits.size(0);
  check_labels(labels, n, logits.size(1));
  return at::nll_loss(at::log_softmax(logits, 1), labels.contiguous().view({n}),
                      /*weight=*/{}, reduction, kIgnoredLabel);
}

}  // namespace

at::Tensor cross_entropy_sum(const at::Tensor& logits,
                             const at::Tensor& labels) {
  return cross_entropy(logits, labels, at::Reduction::Sum);
}

at::Tensor cross_entropy_rows(const at::Tensor& logits,
                              const at::Tensor& labels) {
  return cross_entropy(logits, labels, at::Reduction::None);
}

void check_labels(const at::Tensor& labels, std::int64_t rows,
                  std::int64_t classes) {
  THINWIRE_ASSERT(labels.numel() == rows && labels.scalar_type() == at::kLong,
                  "{} labels of {}, {} rows", labels.numel(),
                  c10::toString(labels.scalar_type()), rows);
  const at::Tensor flat = labels.contiguous();
  const auto* label = flat.const_data_ptr<std::int64_t>();
  for (std::int64_t i = 0; i < rows; ++i) {
    if (label[i] != kIgnoredLabel && (label[i] < 0 || label[i] >= classes)) {
      fail<UsageError>(
          "label {} in row {} is out of range: allowed are 0 to {}, or {} "
          "(ignored)",
          label[i], i, classes - 1, kIgnoredLabel);
    }
  }
}

at::Tensor squared_error_sum(const at::Tensor& predictions,
                             const at::Tensor& targets) {
  THINWIRE_ASSERT(predictions.numel() == targets.numel(),
                  "{} predictions, {} targets", predictions.numel(),
                  targets.numel());
  return predictions.flatten().sub(targets.flatten()).square().sum();
}

}  // namespace thinwire
