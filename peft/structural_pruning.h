// Which rows and columns of a backbone's matrices a narrower model of its kind
// begins with. Sung, Cho & Bansal 2022, "LST", sec. 3.3, as the reference code
// does it: along the layers, every matrix keeps the columns that what it reads
// has kept, and of its rows those with the largest L1 norm of importance.
//   queries, keys and values (and the two matrices into a gated feed-forward)
//   keep the same rows: by the norm of the product of their importances;
//   norms and biases keep what their rows have kept;
//   the first columns are those of the words' embeddings with the largest norm.
// So rows are chosen across heads, and the residual stream of two sublayers is
// not made of the same coordinates: initial values, not a smaller network.
// Differs: as many rows are kept as the narrower model has, also where its
// factor does not divide them (the reference rounds); equal norms: the rows
// behind; products also in BART, of which the reference ranks absolute sums of
// logarithms, where the least important rows come first.
#pragma once

#include <ATen/core/Tensor.h>

#include <functional>
#include <unordered_map>
#include <vector>

#include "models/backbone.h"

namespace thinwire {

class StructuralPruning {
 public:
  // Of a slot's numbers, at least 0, in its shape, fp32 on the CPU.
  using Importance = std::function<at::Tensor(int slot)>;

  // narrow: its widths say how much is kept. Throws UsageError where an
  // importance is zero throughout.
  StructuralPruning(const Backbone& backbone, const Backbone& narrow,
                    const Importance& importance);

  // What is kept of a slot's tensor, fp32 on the CPU: all of one that is
  // neither a matrix, bias or norm of a layer nor the norm that ends a stack.
  at::Tensor kept(int slot) const;

  // Matrices whose importance is asked for.
  static std::vector<int> ranked(const Backbone& backbone);

 private:
  struct Cut {
    at::Tensor rows, columns;  // int64, ascending; undefined: all
  };
  class Walk;

  const Backbone& backbone_;
  std::unordered_map<int, Cut> cuts_;  // by slot
};

}  // namespace thinwire
