#define TORCH_ASSERT_ONLY_METHOD_OPERATORS
#include "ops/loss.h"

#include <ATen/core/Reduction.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/full.h>
#include <ATen/ops/log_softmax.h>
#include <ATen/ops/nll_loss.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <utility>
#include <vector>

#include "base/error.h"
#include "ops/backward.h"
#include "ops/reference.h"

namespace thinwire {
namespace {

// The labels, checked, beside the logits.
at::Tensor checked(const at::Tensor& logits, const at::Tensor& labels) {
  check_labels(labels, logits.size(0), logits.size(1));
  return beside(labels.contiguous().view({logits.size(0)}), logits);
}

at::Tensor negative_log(const at::Tensor& log_softmax, const at::Tensor& labels,
                        at::Reduction::Reduction reduction) {
  return at::nll_loss(log_softmax, labels, /*weight=*/{}, reduction,
                      kIgnoredLabel);
}

at::Tensor smoothed_sum(const at::Tensor& log_p, const at::Tensor& labels,
                        double smoothing) {
  const at::Tensor loss = negative_log(log_p, labels, at::Reduction::Sum);
  if (smoothing == 0) return loss;
  const at::Tensor rows =
      log_p.mean(1).masked_fill(labels.eq(kIgnoredLabel), 0);
  return loss.mul(1 - smoothing).sub(rows.sum(), smoothing);
}

// p - (1 - smoothing) onehot - smoothing / C, rows of ignored labels 0, in
// place of log p.
void turn_into_gradient(at::Tensor& log_p, const at::Tensor& labels,
                        double smoothing) {
  log_p.exp_();
  if (smoothing != 0) {
    log_p.sub_(smoothing / static_cast<double>(log_p.size(1)));
  }
  if (plain_twin(log_p)) {
    const at::Tensor ignored = labels.eq(kIgnoredLabel).unsqueeze(1);
    const at::Tensor at = labels.clamp_min(0).unsqueeze(1);
    log_p.scatter_add_(1, at,
                       at::full(at.sizes(), smoothing - 1, log_p.options()));
    log_p.masked_fill_(ignored, 0);
    return;
  }
  const std::int64_t classes = log_p.size(1);
  auto* p = log_p.mutable_data_ptr<float>();
  const auto* label = labels.const_data_ptr<std::int64_t>();
  for (std::int64_t i = 0; i < labels.numel(); ++i, p += classes) {
    if (label[i] == kIgnoredLabel) {
      std::fill_n(p, classes, 0.0f);
    } else {
      p[label[i]] -= static_cast<float>(1 - smoothing);
    }
  }
}

}  // namespace

at::Tensor cross_entropy_sum(const at::Tensor& logits, const at::Tensor& labels,
                             double smoothing) {
  const at::Tensor label = checked(logits, labels);
  if (logits.scalar_type() != at::kFloat || !needs_graph(std::array{logits})) {
    return smoothed_sum(at::log_softmax(logits, 1), label, smoothing);
  }
  at::Tensor log_p, loss;
  {
    const at::NoGradGuard no_grad;
    log_p = at::log_softmax(logits, 1).contiguous();
    loss = smoothed_sum(log_p, label, smoothing);
  }
  // The one [n, C] tensor that is kept becomes the gradient.
  return with_backward(
      std::move(loss), {logits},
      [log_p, label, smoothing](const at::Tensor& grad,
                                const std::vector<bool>&) mutable {
        THINWIRE_ASSERT(log_p.defined(), "cross_entropy_sum: ran twice");
        at::Tensor out = std::move(log_p);
        turn_into_gradient(out, label, smoothing);
        if (!grad.is_cpu() || grad.item<double>() != 1) out.mul_(grad);
        return std::vector<at::Tensor>{std::move(out)};
      },
      "cross_entropy_sum");
}

at::Tensor cross_entropy_rows(const at::Tensor& logits,
                              const at::Tensor& labels) {
  const at::Tensor label = checked(logits, labels);
  return negative_log(at::log_softmax(logits, 1), label, at::Reduction::None);
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
  return predictions.flatten()
      .sub(beside(targets, predictions).flatten())
      .square()
      .sum();
}

}  // namespace thinwire
