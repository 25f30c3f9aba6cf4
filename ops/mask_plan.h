// What a mask over a weight needs to have its gradient computed at its
// positions alone: built once, kept by the owner of the mask.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <string_view>
#include <vector>

namespace thinwire {

// How the gradient at the positions is computed, for T rows of x and dy.
enum class MaskPath {
  kEmpty,    // no position: nothing
  kSampled,  // a dot product of length T per position, from transposed panels
  kRows,     // a product over the touched rows of the weight, gathered
  kColumns,  // a product over its touched columns, gathered
};
std::string_view name_of(MaskPath path) noexcept;

struct MaskPlan {
  std::int64_t out = 0, in = 0;  // the weight's shape
  at::Tensor index;  // [k], as it was given; its owner may move it to a device
  // That have a position, ascending.
  std::vector<std::int32_t> rows, columns;
  // Positions of rows[i]: [row_begin[i], row_begin[i + 1]); rows.size() + 1.
  std::vector<std::int64_t> row_begin;
  // Of each position: number of its column among `columns` << kPairBits |
  // number of its row among `rows`, modulo kPairRows (ops/sampled_dots.h).
  std::vector<std::uint32_t> pairs;
  // Where touched rows are dense: per 64 columns of the weight and touched row,
  // which of them are positions, and where the first of those lies in its row.
  struct Stretch {
    std::uint64_t bits;
    std::uint32_t before;
  };
  std::vector<Stretch> stretches;  // [ceil(in / 64)][rows.size()], or empty

  std::int64_t size() const { return static_cast<std::int64_t>(pairs.size()); }
  std::int64_t bytes() const;  // of everything but `index`
};

// index int32 or int64 [k], flat positions in a weight [out, in], ascending
// without repetition. O(k) time and memory (and `in` bytes for the time of the
// call). Throws UsageError naming `name` and the first place that is out of
// range or out of order.
MaskPlan make_mask_plan(const at::Tensor& index, std::int64_t out,
                        std::int64_t in, std::string_view name = "mask");

// What the choice goes by, in units of one multiplication and addition of a
// large dense product, per row of x and dy. As measured with AVX-512 on Zen 4
// (docs/performance.md); the path that they choose is never far from the best
// one, as costs that lie close are close.
struct MaskCosts {
  double sampled_position = 2.2;  // one dot product's share of a row
  double transposed_number = 12;  // into a panel, 16 columns at a time
  double streamed_number = 6;     // read for a product of few lines
  // Once per position, whatever the rows:
  double gathered_position = 60;
  double compressed_position = 12;  // where stretches serve
};
MaskPath choose_mask_path(const MaskPlan& plan, std::int64_t rows,
                          const MaskCosts& costs = {});

// The same on a GPU, per position and row of x and dy: the kernel reads two
// numbers of 4 bytes (bf16: 2), mostly from the second-level cache; the dense
// product makes 2 out in operations a row on the matrix units. Either kSampled
// or kRows, the latter for the whole weight. From the data sheets of A100 and
// H100, not measured: 4 and 5 TB/s; 19 and 60 TFLOP/s in fp32, 300 and 700 in
// bf16, a half of which is reached.
struct DeviceMaskCosts {
  double cache_bytes_per_second = 4e12;
  double fp32_operations_per_second = 20e12;
  double bf16_operations_per_second = 250e12;
};
MaskPath choose_device_mask_path(const MaskPlan& plan, std::int64_t rows,
                                 bool bf16, const DeviceMaskCosts& costs = {});

}  // namespace thinwire
