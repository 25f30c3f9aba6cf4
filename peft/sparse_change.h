// A change of a frozen weight that is low-rank and, at a few places, anything:
// s (U V + S), S sparse with a fixed support. Beside the layer or, where the
// layer's own mask shall hold for it too, within W.
// Shapes: U [d_out, r], V [r, d_in], S [k] values at k places of [d_out, d_in].
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

#include "models/sites.h"

namespace thinwire {

struct SparseChange {
  at::Tensor u = {}, v = {};  // fp32
  at::Tensor values = {};     // fp32 [k]; undefined: no S
  at::Tensor places =
      {};            // int32 [k], flat positions in [d_out, d_in], ascending
  double scale = 1;  // s

  // s (U V + S), or s U V, [d_out, d_in]; differentiable.
  at::Tensor whole(bool with_sparse = true) const;
};

// s S x, by a column of x and a column of the output for each of the k numbers.
class SparsePath : public LinearAttachment {
 public:
  SparsePath(const SparseChange& change);

  at::Tensor path(const at::Tensor& x, const ForwardContext& ctx) override;

 private:
  at::Tensor values_;
  at::Tensor rows_, columns_;  // int64 [k], where the values are
  std::int64_t d_out_;
  double scale_;
};

// The whole change, where `removed` (bool [d_out, d_in]) does not say
// otherwise, added to W.
class MaskedChange : public LinearAttachment {
 public:
  MaskedChange(SparseChange change, const at::Tensor& removed);

  at::Tensor weight_change(const ForwardContext& ctx) override;

 private:
  SparseChange change_;
  at::Tensor removed_;
};

}  // namespace thinwire
