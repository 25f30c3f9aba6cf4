// The figures of `thinwire bench kernels`, for people and for programs.
#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "launch/bench/kernels_bench.h"

namespace thinwire {

// One mask over a model: what the rows are of.
struct KernelsResult {
  std::string mask;  // "uniform 0.005", or a file
  std::vector<KernelRow> rows;
};

// The products of weights alone: their masked gradients' time over that of the
// dense ones, the worst single ratio, and the whole list's.
struct KernelsSum {
  double seconds = 0, dense = 0, worst = 0;
  std::string worst_name;
  std::int64_t positions = 0, tensors = 0, empty = 0;
  double ratio() const { return dense > 0 ? seconds / dense : 0; }
};
KernelsSum sum_of(const std::vector<KernelRow>& rows, KernelKind kind);

std::string format_kernels(const KernelsResult& result);
std::string format_roofline(const Roofline& roofline);
nlohmann::ordered_json to_json(const KernelsResult& result);
nlohmann::ordered_json to_json(const Roofline& roofline);

}  // namespace thinwire
