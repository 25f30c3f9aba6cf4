#define TORCH_ASSERT_ONLY_METHOD_OPERATORS
#include "ops/linear_cross_entropy.h"

#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/full.h>
#include <ATen/ops/scalar_tensor.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <utility>
#include <vector>

#include "base/error.h"
#include "ops/backward.h"
#include "ops/loss.h"
#include "ops/vocabulary_pass.h"

namespace thinwire {
namespace {

// The rows that count, and their labels.
struct Kept {
  std::vector<std::int64_t> rows, labels;
};

Kept keep_labelled(const at::Tensor& labels) {
  Kept out;
  const at::Tensor flat = labels.contiguous();
  const auto* label = flat.const_data_ptr<std::int64_t>();
  for (std::int64_t i = 0; i < flat.numel(); ++i) {
    if (label[i] == kIgnoredLabel) continue;
    out.rows.push_back(i);
    out.labels.push_back(label[i]);
  }
  return out;
}

// hidden times scale, the given rows.
at::Tensor gather_rows(const at::Tensor& hidden, const std::int64_t* rows,
                       std::int64_t n, double scale) {
  const std::int64_t d = hidden.size(1);
  at::Tensor out = at::empty({n, d}, hidden.options().requires_grad(false));
  auto* to = out.mutable_data_ptr<float>();
  const auto* from = hidden.const_data_ptr<float>();
  const auto factor = static_cast<float>(scale);
  for (std::int64_t i = 0; i < n; ++i, to += d) {
    const float* row = from + rows[i] * d;
    for (std::int64_t j = 0; j < d; ++j) to[j] = row[j] * factor;
  }
  return out;
}

void scatter_rows(at::Tensor& out, const at::Tensor& in,
                  const std::int64_t* rows, double scale) {
  const std::int64_t d = out.size(1);
  const auto* from = in.const_data_ptr<float>();
  auto* to = out.mutable_data_ptr<float>();
  const auto factor = static_cast<float>(scale);
  for (std::int64_t i = 0; i < in.size(0); ++i, from += d) {
    float* row = to + rows[i] * d;
    for (std::int64_t j = 0; j < d; ++j) row[j] = from[j] * factor;
  }
}

// Calls run(first, count) for blocks of about equal size.
template <class Run>
void for_blocks(std::size_t n, const Run& run) {
  const auto rows = static_cast<std::int64_t>(n);
  const std::int64_t blocks = (rows + kVocabularyRows - 1) / kVocabularyRows;
  for (std::int64_t i = 0; i < blocks; ++i) {
    const std::int64_t begin = i * rows / blocks;
    run(begin, (i + 1) * rows / blocks - begin);
  }
}

struct Gradients {
  at::Tensor hidden, weight, values;
  std::vector<LossRows> late;
};

struct Inputs {
  const at::Tensor& hidden;
  const at::Tensor& weight;
  const LinearCrossEntropyOptions& options;
  bool hidden_trains, weight_trains, values_train;
};

double run_blocks(const Inputs& in, const Kept& kept, Gradients& grads) {
  double sum = 0;
  const double smoothing = in.options.smoothing;
  at::Tensor mean;
  if (smoothing != 0) mean = mean_row(in.weight);
  for_blocks(kept.rows.size(), [&](std::int64_t begin, std::int64_t count) {
    const std::int64_t* rows = kept.rows.data() + begin;
    const at::Tensor x = gather_rows(in.hidden, rows, count, in.options.scale);
    const VocabularyResult block =
        vocabulary_pass(x, in.weight, kept.labels.data() + begin,
                        {.hidden_grad = in.hidden_trains,
                         .probabilities = in.weight_trains || in.values_train,
                         .smoothing = smoothing,
                         .mean_row = mean});
    for (const double loss : block.loss) sum += loss;
    if (in.hidden_trains) {
      scatter_rows(grads.hidden, block.hidden_grad, rows, in.options.scale);
    }
    if (in.weight_trains) {
      add_weight_grad(grads.weight, block.logit_grad, x, begin > 0);
    }
    if (in.values_train) {
      LossRows own{.rows = {rows, rows + count},
                   .x = x,
                   .dy = block.logit_grad.narrow(1, 0, count).t()};
      if (in.options.late) {
        grads.late.push_back(std::move(own));
      } else {
        in.options.sampled(grads.values, own);
      }
    }
  });
  return sum;
}

at::Tensor zeros_of(const at::Tensor& like) {
  return at::zeros(like.sizes(), like.options().requires_grad(false));
}

Gradients make_gradients(const Inputs& in, const Kept& kept) {
  Gradients out;
  const auto counted = static_cast<std::int64_t>(kept.rows.size());
  if (in.hidden_trains) {
    out.hidden = counted == in.hidden.size(0)
                     ? at::empty(in.hidden.sizes(),
                                 in.hidden.options().requires_grad(false))
                     : zeros_of(in.hidden);
  }
  if (in.weight_trains) {
    out.weight = counted > 0
                     ? at::empty(in.weight.sizes(), in.hidden.options())
                     : at::zeros(in.weight.sizes(), in.hidden.options());
  }
  if (in.values_train) out.values = zeros_of(in.options.values);
  return out;
}

void check(const at::Tensor& hidden, const at::Tensor& weight,
           const at::Tensor& labels) {
  THINWIRE_ASSERT(hidden.dim() == 2 && weight.dim() == 2 &&
                      hidden.size(1) == weight.size(1) &&
                      hidden.scalar_type() == at::kFloat && hidden.is_cpu(),
                  "hidden states of width {} of {}, a matrix of width {}",
                  hidden.size(-1), c10::toString(hidden.scalar_type()),
                  weight.size(-1));
  check_labels(labels, hidden.size(0), weight.size(0));
}

}  // namespace

at::Tensor linear_cross_entropy(const at::Tensor& hidden,
                                const at::Tensor& weight,
                                const at::Tensor& labels,
                                const LinearCrossEntropyOptions& options) {
  check(hidden, weight, labels);
  const at::Tensor x = hidden.detach().contiguous();
  const at::Tensor w = weight.detach().contiguous();
  const Inputs in{x,
                  w,
                  options,
                  needs_graph(std::array{hidden}),
                  needs_graph(std::array{weight}),
                  needs_graph(std::array{options.values})};
  THINWIRE_ASSERT(!in.values_train || options.sampled,
                  "{} values train, and nothing computes their gradient",
                  options.values.numel());
  const Kept kept = keep_labelled(labels);
  Gradients grads = make_gradients(in, kept);
  double sum = 0;
  {
    const at::NoGradGuard no_grad;
    sum = run_blocks(in, kept, grads);
  }
  return with_backward(
      at::scalar_tensor(sum, x.options().requires_grad(false)),
      {hidden, weight, options.values},
      [grads = std::move(grads), type = w.scalar_type(),
       sampled = options.sampled](const at::Tensor& grad,
                                  const std::vector<bool>& needed) mutable {
        const at::NoGradGuard no_grad;
        const float factor = grad.item<float>();
        std::vector<at::Tensor> out{std::move(grads.hidden),
                                    std::move(grads.weight),
                                    std::move(grads.values)};
        for (std::size_t i = 0; i < out.size(); ++i) {
          if (!needed[i]) out[i].reset();
          if (out[i].defined() && factor != 1.0f) out[i].mul_(factor);
        }
        for (LossRows& block : std::exchange(grads.late, {})) {
          if (factor != 1.0f) block.dy.mul_(factor);
          if (needed[2]) sampled(out[2], block);
        }
        if (out[1].defined()) out[1] = out[1].to(type);
        return out;
      },
      "linear_cross_entropy");
}

TokenLosses linear_cross_entropy_rows(const at::Tensor& hidden,
                                      const at::Tensor& weight,
                                      const at::Tensor& labels, double scale) {
  check(hidden, weight, labels);
  const at::NoGradGuard no_grad;
  const at::Tensor x = hidden.detach().contiguous();
  const at::Tensor w = weight.detach().contiguous();
  const Kept kept = keep_labelled(labels);
  TokenLosses out{at::zeros({x.size(0)}, x.options().requires_grad(false)),
                  at::full({x.size(0)}, -1,
                           x.options().requires_grad(false).dtype(at::kLong))};
  auto* loss = out.loss.mutable_data_ptr<float>();
  auto* best = out.best.mutable_data_ptr<std::int64_t>();
  for_blocks(kept.rows.size(), [&](std::int64_t begin, std::int64_t count) {
    const std::int64_t* rows = kept.rows.data() + begin;
    const VocabularyResult block =
        vocabulary_pass(gather_rows(x, rows, count, scale), w,
                        kept.labels.data() + begin, {.best = true});
    for (std::size_t i = 0; i < block.loss.size(); ++i) {
      loss[rows[i]] = static_cast<float>(block.loss[i]);
      best[rows[i]] = block.best[i];
    }
  });
  return out;
}

}  // namespace thinwire
