// A frozen weight that a sum of gradients scores: of each sequence's own,
// squared (Fisher), or of all as they are. The backbone runs a whole batch, and
// backward adds to the sums what each use contributes; a matrix has no gradient
// beside them.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

#include "models/watched_weight.h"
#include "ops/squared_gradient.h"

namespace thinwire {

// What the scored weights of a pass share.
struct ScoredPass {
  explicit ScoredPass(bool squared);
  const bool squared;
  at::Tensor leaf;             // requires grad, gets none: backward goes on to
                               // the first use of a scored weight
  std::vector<float> weights;  // [B] of the sequences' squares; set before
                               // backward
};

class ScoredWeight : public WatchedWeight,
                     public std::enable_shared_from_this<ScoredWeight> {
 public:
  // sums: contiguous fp32 of the weight's shape, added to.
  ScoredWeight(at::Tensor sums, std::shared_ptr<const ScoredPass> pass);

  at::Tensor product(const at::Tensor& y, const at::Tensor& x,
                     at::ScalarType type, const Layout& layout,
                     WeightAxes axes) override;
  at::Tensor look_up(const at::Tensor& y, const at::Tensor& rows,
                     const Layout& layout, std::int64_t ignored) override;
  at::Tensor added(const at::Tensor& y, const Layout& layout) override;
  at::Tensor scaled(const at::Tensor& y, std::function<at::Tensor()> normal,
                    const Layout& layout) override;
  Sampled sampled(at::ScalarType type, const Layout& layout) override;
  // Any other use: gradient(dy) is the weight's own [B, …], of each sequence.
  at::Tensor other(const at::Tensor& y,
                   std::function<at::Tensor(const at::Tensor& dy)> gradient);

  // After each backward: uses of a weight that is used more than once (tied
  // embeddings) are summed before they are squared.
  void finish();

 private:
  void use(WeightUse use);
  void add(const at::Tensor& each);  // [B, numbers]

  at::Tensor sums_;
  std::shared_ptr<const ScoredPass> pass_;
  int uses_ = 0;                 // matrix uses in this pass's forward
  std::vector<WeightUse> kept_;  // if more than one, to be squared
  at::Tensor others_;            // [B, numbers]: gradients of other uses
};

}  // namespace thinwire
