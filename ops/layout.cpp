#define TORCH_ASSERT_ONLY_METHOD_OPERATORS
#include "ops/layout.h"

#include <ATen/ops/arange.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <cstring>
#include <memory>
#include <utility>

#include "base/error.h"
#include "ops/backward.h"
#include "ops/reference.h"

namespace thinwire {
namespace {

at::Tensor empty_int64(std::int64_t n) {
  return at::empty({n}, at::TensorOptions().dtype(at::kLong));
}

at::Tensor to_tensor(const std::vector<std::int64_t>& values) {
  at::Tensor out = empty_int64(static_cast<std::int64_t>(values.size()));
  std::copy(values.begin(), values.end(), out.data_ptr<std::int64_t>());
  return out;
}

void set_padded_rows(Layout& layout) {
  if (layout.uniform) return;
  layout.padded_rows = empty_int64(layout.rows());
  auto* out = layout.padded_rows.data_ptr<std::int64_t>();
  for (std::int64_t b = 0; b < layout.batch(); ++b) {
    const auto begin = layout.offsets[static_cast<std::size_t>(b)];
    const auto end = layout.offsets[static_cast<std::size_t>(b) + 1];
    for (std::int64_t t = begin; t < end; ++t) {
      out[t] = b * layout.max_length + t - begin;
    }
  }
}

// Only what moving rows needs, so that a graph does not hold a whole Layout.
struct Ragged {
  std::vector<std::int64_t> offsets;
  std::int64_t max_length;
};
using RaggedPtr = std::shared_ptr<const Ragged>;

std::size_t row_bytes(const at::Tensor& x, std::int64_t rows) {
  return rows == 0 ? 0
                   : static_cast<std::size_t>(x.numel() / rows) *
                         static_cast<std::size_t>(x.element_size());
}

// Calls f(row in the packed tensor, row in the padded one, rows, rows of
// padding) for every sequence.
template <class F>
void each_sequence(const Ragged& shape, const F& f) {
  const auto longest = static_cast<std::size_t>(shape.max_length);
  for (std::size_t b = 0; b + 1 < shape.offsets.size(); ++b) {
    const auto begin = static_cast<std::size_t>(shape.offsets[b]);
    const auto length = static_cast<std::size_t>(shape.offsets[b + 1]) - begin;
    f(begin, b * longest, length, longest - length);
  }
}

// Sizes of x with its first `dims` dimensions replaced.
std::vector<std::int64_t> with_rows(const at::Tensor& x, std::int64_t dims,
                                    std::vector<std::int64_t> rows) {
  rows.insert(rows.end(), x.sizes().begin() + dims, x.sizes().end());
  return rows;
}

at::Tensor unpad(const at::Tensor& padded, const RaggedPtr& shape);

// Each is the other's backward.
at::Tensor pad(const at::Tensor& x, const RaggedPtr& shape) {
  const auto batch = static_cast<std::int64_t>(shape->offsets.size()) - 1;
  const at::Tensor source = x.contiguous();
  at::Tensor out = at::empty(with_rows(x, 1, {batch, shape->max_length}),
                             x.options().requires_grad(false));
  const std::size_t row = row_bytes(source, shape->offsets.back());
  const auto* from = static_cast<const char*>(source.const_data_ptr());
  auto* to = static_cast<char*>(out.mutable_data_ptr());
  each_sequence(*shape, [&](auto packed, auto padded, auto rows, auto rest) {
    std::memcpy(to + padded * row, from + packed * row, rows * row);
    std::memset(to + (padded + rows) * row, 0, rest * row);
  });
  return with_backward(
      std::move(out), {x},
      [shape](const at::Tensor& grad, const std::vector<bool>&) {
        return std::vector<at::Tensor>{unpad(grad, shape)};
      },
      "pad_rows", true);
}

at::Tensor unpad(const at::Tensor& padded, const RaggedPtr& shape) {
  const at::Tensor source = padded.contiguous();
  at::Tensor out = at::empty(with_rows(padded, 2, {shape->offsets.back()}),
                             padded.options().requires_grad(false));
  const std::size_t row = row_bytes(out, shape->offsets.back());
  const auto* from = static_cast<const char*>(source.const_data_ptr());
  auto* to = static_cast<char*>(out.mutable_data_ptr());
  each_sequence(*shape, [&](auto packed, auto padded_row, auto rows, auto) {
    std::memcpy(to + packed * row, from + padded_row * row, rows * row);
  });
  return with_backward(
      std::move(out), {padded},
      [shape](const at::Tensor& grad, const std::vector<bool>&) {
        return std::vector<at::Tensor>{pad(grad, shape)};
      },
      "unpad_rows", true);
}

RaggedPtr ragged(const Layout& layout) {
  return std::make_shared<Ragged>(Ragged{layout.offsets, layout.max_length});
}

}  // namespace

Layout make_layout(const std::vector<std::int64_t>& lengths,
                   const std::vector<std::uint64_t>& sample_ids,
                   const std::vector<std::int64_t>& positions) {
  THINWIRE_ASSERT(lengths.size() == sample_ids.size(),
                  "{} lengths, {} sample ids", lengths.size(),
                  sample_ids.size());
  if (lengths.empty()) fail<UsageError>("a batch needs at least one sequence");
  Layout out;
  out.offsets.reserve(lengths.size() + 1);
  out.offsets.push_back(0);
  for (std::size_t b = 0; b < lengths.size(); ++b) {
    if (lengths[b] < 1) {
      fail<UsageError>(
          "sample {} is an empty sequence; at least one token is "
          "needed (were special tokens added at preparation?)",
          sample_ids[b]);
    }
    out.offsets.push_back(out.offsets.back() + lengths[b]);
    out.max_length = std::max(out.max_length, lengths[b]);
    out.uniform = out.uniform && lengths[b] == lengths[0];
  }
  THINWIRE_ASSERT(positions.empty() ||
                      static_cast<std::int64_t>(positions.size()) == out.rows(),
                  "{} positions, {} rows", positions.size(), out.rows());

  out.samples = empty_int64(out.rows());
  out.positions =
      positions.empty() ? empty_int64(out.rows()) : to_tensor(positions);
  auto* samples = out.samples.data_ptr<std::int64_t>();
  auto* place = out.positions.data_ptr<std::int64_t>();
  std::int64_t t = 0;
  for (std::size_t b = 0; b < lengths.size(); ++b) {
    for (std::int64_t i = 0; i < lengths[b]; ++i, ++t) {
      samples[t] = static_cast<std::int64_t>(sample_ids[b]);
      if (positions.empty()) place[t] = i;
      out.contiguous_positions = out.contiguous_positions && place[t] == i;
    }
  }
  set_padded_rows(out);
  return out;
}

Layout insert_rows(const Layout& layout, std::int64_t n, std::int64_t at) {
  THINWIRE_ASSERT(n >= 0 && at >= 0, "n = {}, at = {}", n, at);
  Layout out;
  out.uniform = layout.uniform;
  out.max_length = layout.max_length + n;
  out.contiguous_positions = layout.contiguous_positions;
  out.offsets.reserve(layout.offsets.size());
  out.offsets.push_back(0);
  out.positions = empty_int64(layout.rows() + layout.batch() * n);
  out.samples = empty_int64(layout.rows() + layout.batch() * n);
  const auto* position = layout.positions.const_data_ptr<std::int64_t>();
  const auto* sample = layout.samples.const_data_ptr<std::int64_t>();
  auto* new_position = out.positions.data_ptr<std::int64_t>();
  auto* new_sample = out.samples.data_ptr<std::int64_t>();
  for (std::size_t b = 0; b + 1 < layout.offsets.size(); ++b) {
    const std::int64_t begin = layout.offsets[b], end = layout.offsets[b + 1];
    if (at > end - begin) {
      fail<UsageError>("sample {} has {} rows, too few to put {} after row {}",
                       static_cast<std::uint64_t>(sample[begin]), end - begin,
                       n, at);
    }
    const std::int64_t first =
        at == 0 ? position[begin] : position[begin + at - 1] + 1;
    for (std::int64_t i = 0; i < at; ++i) {
      *new_position++ = position[begin + i];
    }
    for (std::int64_t i = 0; i < n; ++i) *new_position++ = first + i;
    for (std::int64_t t = begin + at; t < end; ++t) {
      *new_position++ = position[t] + n;
    }
    new_sample = std::fill_n(new_sample, end - begin + n, sample[begin]);
    out.offsets.push_back(out.offsets.back() + end - begin + n);
  }
  set_padded_rows(out);
  return out;
}

at::Tensor insert_into(const at::Tensor& x, const at::Tensor& extra,
                       const Layout& layout, std::int64_t at) {
  const bool shared = extra.dim() == 2;
  const std::int64_t batch = layout.batch(), n = extra.size(-2), d = x.size(-1);
  THINWIRE_ASSERT(x.size(0) == layout.rows() && extra.size(-1) == d &&
                      (shared || extra.size(0) == batch),
                  "x [{}, {}], extra [{}, {}], {} sequences", x.size(0), d, n,
                  extra.size(-1), batch);
  if (layout.uniform) {
    const at::Tensor x3 = x.view({batch, layout.max_length, d});
    const at::Tensor e3 =
        shared ? extra.unsqueeze(0).expand({batch, n, d}) : extra;
    return at::cat({x3.narrow(1, 0, at), e3,
                    x3.narrow(1, at, layout.max_length - at)},
                   1)
        .view({batch * (layout.max_length + n), d});
  }
  // Rows of [x; extra], in their new order.
  const std::int64_t rows = layout.rows();
  at::Tensor order = empty_int64(rows + batch * n);
  auto* o = order.data_ptr<std::int64_t>();
  for (std::int64_t b = 0; b < batch; ++b) {
    const auto begin = layout.offsets[static_cast<std::size_t>(b)];
    const auto end = layout.offsets[static_cast<std::size_t>(b) + 1];
    for (std::int64_t t = begin; t < begin + at; ++t) *o++ = t;
    for (std::int64_t i = 0; i < n; ++i) {
      *o++ = rows + (shared ? 0 : b * n) + i;
    }
    for (std::int64_t t = begin + at; t < end; ++t) *o++ = t;
  }
  return at::cat({x, extra.reshape({-1, d})}, 0)
      .index_select(0, beside(order, x));
}

at::Tensor pad_rows(const at::Tensor& x, const Layout& layout) {
  THINWIRE_ASSERT(x.size(0) == layout.rows(), "{} rows, layout of {}",
                  x.size(0), layout.rows());
  if (!layout.uniform && plain_twin(x)) {
    const at::Tensor rows = beside(layout.padded_rows, x);
    const auto shape = with_rows(x, 1, {layout.batch() * layout.max_length});
    return at::zeros(shape, x.options().requires_grad(false))
        .index_copy(0, rows, x)
        .view(with_rows(x, 1, {layout.batch(), layout.max_length}));
  }
  if (!layout.uniform) return pad(x, ragged(layout));
  return x.reshape(with_rows(x, 1, {layout.batch(), layout.max_length}));
}

at::Tensor unpad_rows(const at::Tensor& x, const Layout& layout) {
  THINWIRE_ASSERT(x.size(0) == layout.batch() && x.size(1) == layout.max_length,
                  "[{}, {}] for a layout of [{}, {}]", x.size(0), x.size(1),
                  layout.batch(), layout.max_length);
  if (layout.uniform) return x.flatten(0, 1);
  if (!plain_twin(x)) return unpad(x, ragged(layout));
  return x.flatten(0, 1).index_select(0, beside(layout.padded_rows, x));
}

}  // namespace thinwire
