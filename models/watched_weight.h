// A weight whose uses are seen one by one, because its gradient is never wanted
// as a whole: entries of it train, or it is scored. Where the backbone uses
// such a weight, the result goes through one of these.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <functional>

#include "ops/layout.h"
#include "ops/linear.h"
#include "ops/linear_cross_entropy.h"

namespace thinwire {

class WatchedWeight {
 public:
  virtual ~WatchedWeight() = default;

  // All return y, recorded; rows of y as in `layout`.
  // y = x W^T, where x was rounded to W's type; x W where W lies [in, out].
  virtual at::Tensor product(const at::Tensor& y, const at::Tensor& x,
                             at::ScalarType type, const Layout& layout,
                             WeightAxes axes) = 0;
  // y[t] = W[rows[t]]; rows equal to `ignored` get no gradient.
  virtual at::Tensor look_up(const at::Tensor& y, const at::Tensor& rows,
                             const Layout& layout, std::int64_t ignored) = 0;
  // y[t] = f(…) + W: a bias.
  virtual at::Tensor added(const at::Tensor& y, const Layout& layout) = 0;
  // y[t] = W * normal(t) (+ …): a norm's weight. normal() [T, n] is computed
  // anew in backward.
  virtual at::Tensor scaled(const at::Tensor& y,
                            std::function<at::Tensor()> normal,
                            const Layout& layout) = 0;

  // What a loss computed through x W^T in blocks of rows needs instead of
  // product(), to leave the gradient of these values; undefined: nothing to be
  // left.
  struct Sampled {
    at::Tensor values;  // leaf, fp32 [k]
    // grad [k] += what the block contributes; `late`: asked for in backward.
    std::function<void(at::Tensor& grad, const LossRows& block)> add;
    bool late = false;
  };
  virtual Sampled sampled(at::ScalarType type, const Layout& layout) = 0;
};

}  // namespace thinwire
