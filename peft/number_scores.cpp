#include "peft/number_scores.h"

#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/zeros_like.h>

#include <cmath>
#include <functional>

#include "base/error.h"
#include "base/random.h"

namespace thinwire {
namespace {

using Matrices = std::span<const ScoredMatrix>;
using Tensors = std::vector<at::Tensor>;

// Of the norm of the numbers, how far a difference of gradients goes: its error
// is the third derivative's there, rounding's below.
constexpr double kStep = 1e-3;

at::Tensor copy(const at::Tensor& t) {
  return t.detach().to(at::kCPU, at::kFloat, /*non_blocking=*/false,
                       /*copy=*/true);
}

Tensors values_of(Matrices matrices) {
  Tensors out;
  for (const ScoredMatrix& m : matrices) out.push_back(copy(m.leaf));
  return out;
}

void zero_gradients(Matrices matrices) {
  for (const ScoredMatrix& m : matrices) m.leaf.grad().zero_();
}

// Of the summed loss of the examples of all ranks.
Tensors gradients(Matrices matrices, const ScoreOptions& options,
                  Scoring& scoring) {
  zero_gradients(matrices);
  scoring.for_each_batch(
      options.samples, Scoring::Labels::kData,
      [](std::span<const double>, const std::function<void()>& backward) {
        backward();
      });
  Tensors out;
  for (const ScoredMatrix& m : matrices) out.push_back(copy(m.leaf.grad()));
  scoring.sum_over_ranks(out);
  return out;
}

double norm(const Tensors& tensors) {
  double squares = 0;
  for (const at::Tensor& t : tensors) {
    squares += t.to(at::kDouble).square().sum().item<double>();
  }
  return std::sqrt(squares);
}

Tensors random(Matrices matrices, std::uint64_t seed) {
  Tensors out;
  for (const ScoredMatrix& m : matrices) {
    out.push_back(random_scores(m.name, m.leaf.sizes(), seed));
  }
  return out;
}

Tensors snip(Matrices matrices, const ScoreOptions& options, Scoring& scoring) {
  Tensors scores = values_of(matrices);
  const Tensors g = gradients(matrices, options, scoring);
  for (std::size_t i = 0; i < scores.size(); ++i) scores[i].mul_(g[i]).abs_();
  return scores;
}

Tensors grasp(Matrices matrices, const ScoreOptions& options,
              Scoring& scoring) {
  const Tensors values = values_of(matrices);
  const Tensors g = gradients(matrices, options, scoring);
  const double length = norm(g);
  const double h = length > 0 ? kStep * norm(values) / length : 0;
  const auto gradients_at = [&](double step) {
    for (std::size_t i = 0; i < values.size(); ++i) {
      matrices[i].leaf.detach().copy_(values[i].add(g[i], step));
    }
    return gradients(matrices, options, scoring);
  };
  Tensors scores = gradients_at(h);
  const Tensors below = gradients_at(-h);
  for (std::size_t i = 0; i < values.size(); ++i) {
    matrices[i].leaf.detach().copy_(values[i]);
    scores[i].sub_(below[i]).mul_(values[i]);
    if (h > 0) scores[i].div_(2 * h);
  }
  return scores;
}

Tensors fisher(Matrices matrices, const ScoreOptions& options,
               Scoring& scoring) {
  Tensors squares;
  for (const ScoredMatrix& m : matrices) {
    squares.push_back(at::zeros_like(m.leaf.detach()));
  }
  scoring.for_each_example(options.samples, options.labels,
                           [&](std::span<const double> weights,
                               const std::function<void()>& backward) {
                             zero_gradients(matrices);
                             backward();
                             for (std::size_t i = 0; i < squares.size(); ++i) {
                               const at::Tensor& g = matrices[i].leaf.grad();
                               squares[i].addcmul_(g, g, weights[0]);
                             }
                           });
  for (at::Tensor& s : squares) s = s.cpu();
  scoring.sum_over_ranks(squares);
  return squares;
}

}  // namespace

at::Tensor random_scores(std::string_view name, at::IntArrayRef shape,
                         std::uint64_t seed) {
  at::Tensor out = at::empty(shape, at::kFloat);
  fill_uniform(out.mutable_data_ptr<float>(), out.numel(), seed,
               fmt::format("mask.{}", name), 0, 1);
  return out;
}

bool scores_by_gradient(ScoreKind kind) {
  return kind == ScoreKind::kSnip || kind == ScoreKind::kGrasp ||
         kind == ScoreKind::kFisher;
}

std::vector<at::Tensor> score_numbers(std::span<const ScoredMatrix> matrices,
                                      const ScoreOptions& options,
                                      Scoring* scoring) {
  THINWIRE_ASSERT(scoring != nullptr || !scores_by_gradient(options.kind),
                  "no examples to score with");
  switch (options.kind) {
    case ScoreKind::kRandom:
    case ScoreKind::kErdosRenyi:
      return random(matrices, options.seed);
    case ScoreKind::kMagnitude: {
      Tensors scores = values_of(matrices);
      for (at::Tensor& s : scores) s.abs_();
      return scores;
    }
    case ScoreKind::kSnip:
      return snip(matrices, options, *scoring);
    case ScoreKind::kGrasp:
      return grasp(matrices, options, *scoring);
    case ScoreKind::kFisher:
      return fisher(matrices, options, *scoring);
  }
  fail<InternalError>("score {}", static_cast<int>(options.kind));
}

}  // namespace thinwire
