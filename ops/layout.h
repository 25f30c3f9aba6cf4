// Ragged batches without padding. B sequences lie end to end in T rows;
// sequence b is rows [offsets[b], offsets[b+1]). Linear layers, norms and
// dropout work on [T, d] and never see padding; attention alone needs to know
// where sequences end.
#pragma once

#include <cstdint>
#include <vector>

#include <ATen/core/Tensor.h>

namespace thinwire {

struct Layout {
  std::vector<std::int64_t> offsets;  // [B + 1], offsets[0] = 0
  at::Tensor positions;  // int64 [T]: position of each row in its own sequence
  at::Tensor samples;    // int64 [T]: sample id of each row (bits of a uint64)
  std::int64_t max_length = 0;
  bool uniform = true;   // all B lengths equal: [T, d] is [B, L, d] as it lies
  // Positions of every sequence are 0, 1, 2, … (no holes).
  bool contiguous_positions = true;
  // Unless uniform: int64 [T], row t's place b * max_length + i in the padded
  // [B * max_length, d] form that attention uses inside.
  at::Tensor padded_rows;

  std::int64_t batch() const {
    return static_cast<std::int64_t>(offsets.size()) - 1;
  }
  std::int64_t rows() const { return offsets.back(); }
};

// lengths [B] (each >= 1), sample ids [B]; positions (concatenated, [T]) only
// where they are not 0, 1, 2, … . Throws UsageError on an empty sequence.
Layout make_layout(const std::vector<std::int64_t>& lengths,
                   const std::vector<std::uint64_t>& sample_ids,
                   const std::vector<std::int64_t>& positions = {});

// The layout after n more rows are put into every sequence before row `at` of
// it (0: in front; 1: after the first). Positions shift behind them.
Layout insert_rows(const Layout& layout, std::int64_t n, std::int64_t at);
// x [T, d], extra [B, n, d] or [n, d] (the same for all) -> [T + B n, d].
at::Tensor insert_into(const at::Tensor& x, const at::Tensor& extra,
                       const Layout& layout, std::int64_t at);

// [T, d] -> [B, max_length, d], zeros where there is no row; and back. Both
// differentiable, and views when the layout is uniform.
at::Tensor pad_rows(const at::Tensor& x, const Layout& layout);
at::Tensor unpad_rows(const at::Tensor& x, const Layout& layout);

}  // namespace thinwire
