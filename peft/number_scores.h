// Scores of numbers that a method adds to a model, matrix by matrix, before or
// while they train: which of them a mask should keep. The largest are kept.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "peft/method.h"

namespace thinwire {

enum class ScoreKind {
  kRandom,      // uniform, a function of seed and name
  kErdosRenyi,  // the same, for quotas (peft/kept_numbers.h)
  kMagnitude,   // |v|
  kSnip,        // |v g|: Lee, Ajanthan & Torr 2019, "SNIP: Single-shot network
                // pruning based on connection sensitivity", sec. 4
  kGrasp,       // v (H g): Wang, Zhang & Grosse 2020, "Picking winning tickets
                // before training by preserving gradient flow", sec. 4, where
                // the sign is the other and the smallest are kept
  kFisher,      // the sum of every example's own squared gradient
};

// Whether gradients of the run's examples are asked for.
bool scores_by_gradient(ScoreKind kind);

// A matrix whose numbers are scored.
struct ScoredMatrix {
  std::string name;
  at::Tensor leaf;  // fp32, with a gradient that backward adds to
};

struct ScoreOptions {
  ScoreKind kind = ScoreKind::kRandom;
  std::uint64_t seed = 1;
  std::int64_t samples = 1;                         // over all ranks
  Scoring::Labels labels = Scoring::Labels::kData;  // of kFisher
};

// fp32 in the CPU's memory, of the leaves' shapes, equal on every rank.
// scoring: of those by gradient alone; what reads the leaves is attached. g is
// the gradient v has in the summed loss of `samples` examples in evaluation
// mode; H g, H the second derivative of the same, comes from two more passes at
// v + h g and v - h g, since kernels are differentiable once. Leaves are as
// before afterwards, their gradients are not.
std::vector<at::Tensor> score_numbers(std::span<const ScoredMatrix> matrices,
                                      const ScoreOptions& options,
                                      Scoring* scoring);

// kRandom of one matrix.
at::Tensor random_scores(std::string_view name, at::IntArrayRef shape,
                         std::uint64_t seed);

}  // namespace thinwire
