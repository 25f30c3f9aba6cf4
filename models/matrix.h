// A matrix that a backbone multiplies by and never looks up, in the form in
// which it is kept. Its axes lie as in HF's files, which are [in, out] for the
// Conv1D layers of GPT-2: names, shapes and positions of what trains in it, of
// its gradient and of what is saved are then HF's own, and the file is mapped
// as it is. Nothing turns it round but the product itself (ops/linear.h).
#pragma once

#include <ATen/core/Tensor.h>

#include <functional>

#include "ops/linear.h"

namespace thinwire {

struct Matrix {
  at::Tensor tensor;  // fp32 or bf16, [out, in] or as `axes` says; int8: of
                      // ops/quantise.h
  at::Tensor scale;   // of int8: fp32 [out]; else undefined
  // Of int8: the matrix as it was, bf16, for what trains in it.
  std::function<at::Tensor()> exact = {};
  WeightAxes axes = WeightAxes::kOutIn;
};

}  // namespace thinwire
