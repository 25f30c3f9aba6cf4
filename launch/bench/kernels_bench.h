// Masked gradients measured and checked against the dense gradient that they
// spare: `thinwire bench kernels`.
#pragma once

#include <ATen/core/ScalarType.h>
#include <ATen/core/Tensor.h>

#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "launch/bench/kernel_shapes.h"

namespace thinwire {

struct KernelsBenchOptions {
  std::vector<KernelTensor> tensors;
  // Positions by tensor name; a tensor that has none gets an empty mask. Empty
  // map: uniform masks of `density`.
  std::map<std::string, at::Tensor> masks;
  double density = 0;
  at::ScalarType dtype = at::kFloat;  // of x and dy
  int rounds = 5;                     // in which both sides take turns
};

// One tensor (uniform masks: all of a group, which cost alike).
struct KernelRow {
  std::string name, path;
  KernelKind kind = KernelKind::kLinear;
  std::int64_t tensors = 1, out = 0, in = 0, rows = 0, k = 0;
  double seconds = 0, dense = 0;  // of one call, medians
  double plan = 0;                // seconds to build the plan, once per mask
  double error = 0, allowed = 0;  // largest difference from the dense gradient
  std::vector<double> each, each_dense;
};

// What the machine gave in the same run, single calls, the best of several.
struct Roofline {
  double multiply_rate = 0;  // FLOP/s of a dense product
  double copy_rate = 0;      // bytes read and written per second
};

// Throws InternalError naming tensor and path when an answer is wrong.
std::vector<KernelRow> bench_kernels(const KernelsBenchOptions& options);
Roofline measure_roofline(const std::vector<KernelRow>& rows);

}  // namespace thinwire
