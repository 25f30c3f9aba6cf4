// Small helpers of the tests in this folder.
#pragma once

#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>

#include <string_view>
#include <vector>

#include "base/random.h"

namespace thinwire::test {

// Standard normal numbers, a function of the name.
inline at::Tensor normal(std::string_view name,
                         const std::vector<std::int64_t>& shape) {
  at::Tensor out = at::empty(shape);
  fill_normal(out.data_ptr<float>(), out.numel(), 7, name, 1.0f);
  return out;
}

inline at::Tensor leaf(std::string_view name,
                       const std::vector<std::int64_t>& shape) {
  return normal(name, shape).requires_grad_(true);
}

inline at::Tensor copy_leaf(const at::Tensor& x) {
  return x.detach().clone().requires_grad_(true);
}

inline double largest_difference(const at::Tensor& a, const at::Tensor& b) {
  if (a.sizes() != b.sizes()) return 1e30;
  return a.numel() == 0 ? 0.0 : a.sub(b).abs().max().item<double>();
}

}  // namespace thinwire::test
