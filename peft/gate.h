// A number between 0 and 1 that multiplies what a module adds, while a search
// asks which modules are worth their numbers.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

namespace thinwire {

struct Gate {
  at::Tensor all = {};  // [n], read anew in every pass; undefined: open
  std::int64_t number = 0;

  at::Tensor operator()(const at::Tensor& added) const {
    return all.defined() ? added.mul(all.select(0, number)) : added;
  }
};

}  // namespace thinwire
