#include "models/embedded_stream.h"

#include <numeric>

#define TORCH_ASSERT_ONLY_METHOD_OPERATORS
#include <ATen/ops/tensor.h>

namespace thinwire {

EmbeddedStream::EmbeddedStream(const Layout& original)
    : layout(original),
      first_(original.offsets.begin(), original.offsets.end() - 1) {}

void EmbeddedStream::insert(std::int64_t n, std::int64_t at) {
  if (rows_.empty()) {
    rows_.resize(static_cast<std::size_t>(layout.rows()));
    std::iota(rows_.begin(), rows_.end(), std::int64_t{0});
  }
  // A row moves by n for every sequence before its own, and by n more when it
  // stands behind the place.
  std::size_t b = 0;
  for (std::int64_t& row : rows_) {
    while (row >= layout.offsets[b + 1]) ++b;
    const bool behind = row - layout.offsets[b] >= at;
    row += n * (static_cast<std::int64_t>(b) + (behind ? 1 : 0));
  }
  layout = insert_rows(layout, n, at);
}

void EmbeddedStream::shift(std::int64_t n) {
  layout.positions = layout.positions.add(n);
  layout.contiguous_positions = false;
}

at::Tensor EmbeddedStream::token_rows() const {
  return rows_.empty() ? at::Tensor() : at::tensor(rows_, at::kLong);
}

at::Tensor EmbeddedStream::first_rows() const {
  std::vector<std::int64_t> first = first_;
  if (pools_first_row_) {
    first.assign(layout.offsets.begin(), layout.offsets.end() - 1);
  } else if (!rows_.empty()) {
    for (auto& row : first) row = rows_[static_cast<std::size_t>(row)];
  }
  return at::tensor(first, at::kLong);
}

}  // namespace thinwire
