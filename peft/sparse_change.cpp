#define TORCH_ASSERT_ONLY_METHOD_OPERATORS
#include "peft/sparse_change.h"

#include <ATen/ops/zeros.h>

#include <utility>

namespace thinwire {

at::Tensor SparseChange::whole(bool with_sparse) const {
  at::Tensor out = u.matmul(v);
  if (with_sparse && values.defined()) {
    const at::Tensor at = places.to(values.device(), at::kLong);
    out = out.view({-1}).index_add(0, at, values).view(out.sizes());
  }
  return out.mul(scale);
}

SparsePath::SparsePath(const SparseChange& change)
    : values_(change.values), d_out_(change.u.size(0)), scale_(change.scale) {
  const at::Tensor at = change.places.to(at::kLong);
  const std::int64_t d_in = change.v.size(1);
  rows_ = at.div(d_in, "floor").to(values_.device());
  columns_ = at.remainder(d_in).to(values_.device());
}

at::Tensor SparsePath::path(const at::Tensor& x, const ForwardContext&) {
  const at::Tensor read = x.index_select(1, columns_).mul(values_.mul(scale_));
  return at::zeros({x.size(0), d_out_}, x.options()).index_add(1, rows_, read);
}

MaskedChange::MaskedChange(SparseChange change, const at::Tensor& removed)
    : change_(std::move(change)), removed_(removed.to(change_.u.device())) {}

at::Tensor MaskedChange::weight_change(const ForwardContext&) {
  return change_.whole().masked_fill(removed_, 0);
}

}  // namespace thinwire
