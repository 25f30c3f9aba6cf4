// A matrix that a backbone multiplies by and never looks up, in the form in
// which it is kept.
#pragma once

#include <ATen/core/Tensor.h>

#include <functional>

namespace thinwire {

struct Matrix {
  at::Tensor tensor;  // fp32 or bf16 [out, in]; int8: of ops/quantise.h
  at::Tensor scale;   // of int8: fp32 [out]; else undefined
  // Of int8: the matrix as it was, bf16, for what trains in it.
  std::function<at::Tensor()> exact = {};
};

}  // namespace thinwire
