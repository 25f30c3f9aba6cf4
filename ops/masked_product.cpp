#define TORCH_ASSERT_ONLY_METHOD_OPERATORS
#include "ops/masked_product.h"

#include <ATen/Parallel.h>
#include <ATen/core/grad_mode.h>
#include <ATen/native/CPUBlas.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/from_blob.h>
#include <ATen/ops/mm.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <vector>

#include "base/clones.h"
#include "base/isa.h"
#include "ops/micro_kernel.h"

namespace thinwire {
namespace {

// A tile of the result is gathered while it lies in the first-level cache.
constexpr std::int64_t kTile = 64;
constexpr std::int64_t kMostLines = 1024;  // whose panel is made at a time
// So few lines read the other operand too seldom for a copy of it to pay.
constexpr std::int64_t kFewLines = 128;
// The micro-kernel is compiled anew for every depth and distance of rows: T
// rows go in pieces of these depths, the last one filled up with zeros.
constexpr std::int64_t kDepths[] = {1024, 256, 64, 16};
constexpr std::int64_t kLeastDepth = 16;

std::int64_t padded(std::int64_t tokens) {
  return (tokens + kLeastDepth - 1) / kLeastDepth * kLeastDepth;
}

// Rows of a panel lie at few distances, and never a power of two: that would
// put the same number of all lines into one set of the cache.
std::int64_t panel_stride(std::int64_t tokens) {
  std::int64_t stride = 64;
  while (stride < tokens) stride *= 4;
  return stride + kLeastDepth;
}

at::Tensor numbers(std::int64_t n) {
  return at::empty({n}, at::TensorOptions().dtype(at::kFloat));
}

// [count, padded(tokens)], rows `stride` apart, zeros at the end.
void make_panel(float* to, std::int64_t stride, const SampledKernels& kernels,
                const PanelSource& from, const std::int32_t* columns,
                std::int64_t count, std::int64_t tokens) {
  const std::int64_t steps = (tokens + kMostPanelRows - 1) / kMostPanelRows;
  at::parallel_for(0, steps, 1, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t s = begin; s < end; ++s) {
      const std::int64_t t = s * kMostPanelRows;
      kernels.transpose(
          to + t, stride, from, t,
          static_cast<int>(std::min<std::int64_t>(kMostPanelRows, tokens - t)),
          columns, count);
    }
  });
  for (std::int64_t i = 0; i < count && tokens < padded(tokens); ++i) {
    std::fill(to + i * stride + tokens, to + i * stride + padded(tokens), 0.0f);
  }
}

THINWIRE_CLONE_BODY void widen_body(float* __restrict to,
                                    const std::uint16_t* __restrict from,
                                    std::int64_t n) {
  for (std::int64_t i = 0; i < n; ++i) {
    const std::uint32_t bits = static_cast<std::uint32_t>(from[i]) << 16;
    std::memcpy(to + i, &bits, sizeof bits);
  }
}
constexpr Clones<&widen_body> widen;

struct Operand {
  const float* data;
  std::int64_t row;
};

// Rows [first, first + depth) of columns [begin, begin + width) of `from`,
// zeros beyond `tokens`; a copy, kTile apart, or in place.
Operand rows_of(float* copy, const PanelSource& from, std::int64_t begin,
                std::int64_t width, std::int64_t first, std::int64_t depth,
                std::int64_t tokens, bool in_place) {
  const std::int64_t start = first * from.row + begin;
  if (in_place && !from.bf16 && first + depth <= tokens) {
    return {static_cast<const float*>(from.data) + start, from.row};
  }
  const std::int64_t there = std::min(depth, tokens - first);
  for (std::int64_t t = 0; t < there; ++t) {
    if (from.bf16) {
      widen(copy + t * kTile,
            static_cast<const std::uint16_t*>(from.data) + start + t * from.row,
            width);
    } else {
      std::memcpy(copy + t * kTile,
                  static_cast<const float*>(from.data) + start + t * from.row,
                  static_cast<std::size_t>(width) * sizeof(float));
    }
  }
  std::fill(copy + there * kTile, copy + depth * kTile, 0.0f);
  return {copy, kTile};
}

struct Piece {
  std::int64_t first, depth;
  Operand other;
};

std::vector<Piece> pieces_of(float* copy, const PanelSource& from,
                             std::int64_t begin, std::int64_t width,
                             std::int64_t tokens, bool in_place) {
  std::vector<Piece> pieces;
  std::int64_t first = 0;
  for (const std::int64_t depth : kDepths) {
    for (; first + depth <= padded(tokens); first += depth) {
      pieces.push_back({first, depth,
                        rows_of(copy + first * kTile, from, begin, width, first,
                                depth, tokens, in_place)});
    }
  }
  return pieces;
}

// What a finished tile holds: lines [line, line + lines) of the chosen ones,
// columns [begin, begin + width) of the other operand.
struct Tile {
  std::int64_t line, lines, begin, width;
  const float* sums;
  std::int64_t row;
};

class Gather {
 public:
  Gather(const MaskPlan& plan, const MaskedOperands& operands, MaskPath path)
      : plan_(plan),
        operands_(operands),
        path_(path),
        kernels_(sampled_kernels(isa())) {}

  void operator()(const Tile& tile) const {
    if (path_ == MaskPath::kColumns) return by_columns(tile);
    if (!plan_.stretches.empty()) return by_stretches(tile);
    by_rows(tile);
  }

 private:
  void put(std::int64_t i, float value) const {
    float* to = operands_.grad + i;
    *to = (operands_.accumulate ? *to : 0.0f) + value;
  }
  std::uint32_t column(std::int64_t i) const {
    return plan_.pairs[static_cast<std::size_t>(i)] >> kPairBits;
  }

  // A tile's columns are the weight's; they begin a stretch.
  void by_stretches(const Tile& tile) const {
    const std::size_t rows = plan_.rows.size();
    for (std::int64_t i = 0; i < tile.lines; ++i) {
      const auto r =
          static_cast<std::size_t>(operands_.row_begin + tile.line + i);
      for (std::int64_t j = 0; j < tile.width; j += kTile) {
        const auto s = static_cast<std::size_t>((tile.begin + j) / kTile);
        const MaskPlan::Stretch& stretch = plan_.stretches[s * rows + r];
        if (stretch.bits == 0) continue;
        const float* line = tile.sums + i * tile.row + j;
        float* to = operands_.grad + plan_.row_begin[r] + stretch.before;
        kernels_.compress(to, operands_.accumulate, line, stretch.bits);
      }
    }
  }

  void by_rows(const Tile& tile) const {
    const auto& columns = plan_.columns;
    const auto first = static_cast<std::uint32_t>(
        std::ranges::lower_bound(columns, tile.begin) - columns.begin());
    for (std::int64_t i = 0; i < tile.lines; ++i) {
      const auto r =
          static_cast<std::size_t>(operands_.row_begin + tile.line + i);
      const std::uint32_t* begin = plan_.pairs.data() + plan_.row_begin[r];
      const std::uint32_t* end = plan_.pairs.data() + plan_.row_begin[r + 1];
      const std::uint32_t* p = std::lower_bound(begin, end, first << kPairBits);
      const float* sums = tile.sums + i * tile.row - tile.begin;
      for (; p < end; ++p) {
        const std::int32_t c = columns[*p >> kPairBits];
        if (c >= tile.begin + tile.width) break;
        put(p - plan_.pairs.data(), sums[c]);
      }
    }
  }

  // A tile's columns are rows of the weight, its lines touched columns.
  void by_columns(const Tile& tile) const {
    const auto rows_begin = plan_.rows.begin() + operands_.row_begin;
    const auto rows_end = plan_.rows.begin() + operands_.row_end;
    auto row = std::lower_bound(rows_begin, rows_end,
                                operands_.first_row + tile.begin);
    const std::int64_t end = operands_.first_row + tile.begin + tile.width;
    const auto first = static_cast<std::uint32_t>(tile.line);
    const auto last = static_cast<std::uint32_t>(tile.line + tile.lines);
    for (; row < rows_end && *row < end; ++row) {
      const auto r = static_cast<std::size_t>(row - plan_.rows.begin());
      const float* sums = tile.sums + (*row - operands_.first_row - tile.begin);
      for (std::int64_t i = plan_.row_begin[r]; i < plan_.row_begin[r + 1];
           ++i) {
        const std::uint32_t c = column(i);
        if (c < first || c >= last) continue;
        put(i, sums[(c - first) * tile.row]);
      }
    }
  }

  const MaskPlan& plan_;
  const MaskedOperands& operands_;
  MaskPath path_;
  const SampledKernels& kernels_;
};

struct Product {
  const float* lines;  // [count, tokens]
  std::int64_t stride, first, count;
  const PanelSource& other;
  std::int64_t tokens;
};

void tiled_product(const Product& p, const Gather& gather) {
  const std::int64_t tiles = (p.other.width + kTile - 1) / kTile;
  const bool in_place = p.count <= kFewLines;
  at::parallel_for(0, tiles, 1, [&](std::int64_t begin, std::int64_t end) {
    const at::Tensor copy = numbers(padded(p.tokens) * kTile);
    alignas(64) std::array<float, kTile * kTile> sums;
    for (std::int64_t column = begin * kTile; column < end * kTile;
         column += kTile) {
      const std::int64_t width = std::min(kTile, p.other.width - column);
      const std::vector<Piece> pieces =
          pieces_of(copy.mutable_data_ptr<float>(), p.other, column, width,
                    p.tokens, in_place);
      for (std::int64_t i = 0; i < p.count; i += kTile) {
        const std::int64_t lines = std::min(kTile, p.count - i);
        for (const Piece& piece : pieces) {
          at::native::cpublas::brgemm(lines, width, piece.depth, p.stride,
                                      piece.other.row, kTile, piece.first > 0,
                                      p.lines + i * p.stride + piece.first,
                                      piece.other.data, sums.data());
        }
        gather({p.first + i, lines, column, width, sums.data(), kTile});
      }
    }
  });
}

void library_product(const Product& p, const Gather& gather) {
  const at::NoGradGuard no_grad;
  const auto options = at::TensorOptions().dtype(at::kFloat);
  const at::Tensor lines = at::from_blob(
      const_cast<float*>(p.lines), {p.count, p.tokens}, {p.stride, 1}, options);
  const at::Tensor other =
      at::from_blob(const_cast<void*>(p.other.data), {p.tokens, p.other.width},
                    {p.other.row, 1},
                    options.dtype(p.other.bf16 ? at::kBFloat16 : at::kFloat));
  const at::Tensor sums = at::mm(lines, other.to(at::kFloat));
  gather({p.first, p.count, 0, p.other.width, sums.const_data_ptr<float>(),
          p.other.width});
}

// The columns of dy that touched rows of the weight are.
std::vector<std::int32_t> dy_columns(const MaskPlan& plan,
                                     const MaskedOperands& o) {
  std::vector<std::int32_t> columns(plan.rows.begin() + o.row_begin,
                                    plan.rows.begin() + o.row_end);
  for (std::int32_t& column : columns) {
    column -= static_cast<std::int32_t>(o.first_row);
  }
  return columns;
}

// So few rows of x and dy that tiles would be mostly set-up: line by line of
// the weight.
constexpr std::int64_t kFewTokens = 16;

// x as fp32 whose rows are whole stretches, a copy where it is not.
Operand whole_stretches(at::Tensor& copy, const PanelSource& x, std::int64_t in,
                        std::int64_t tokens) {
  if (!x.bf16 && in % kTile == 0) {
    return {static_cast<const float*>(x.data), x.row};
  }
  const std::int64_t padded_in = (in + kTile - 1) / kTile * kTile;
  copy = numbers(tokens * padded_in);
  auto* to = copy.mutable_data_ptr<float>();
  for (std::int64_t c = 0; c < in; c += kTile) {
    alignas(64) std::array<float, kFewTokens * kTile> part{};
    rows_of(part.data(), x, c, std::min(kTile, in - c), 0, tokens, tokens,
            false);
    for (std::int64_t t = 0; t < tokens; ++t) {
      std::memcpy(to + t * padded_in + c, part.data() + t * kTile,
                  kTile * sizeof(float));
    }
  }
  return {to, padded_in};
}

void product_of_few(const MaskPlan& plan, const MaskedOperands& o) {
  at::Tensor copy;
  const Operand x = whole_stretches(copy, o.x, plan.in, o.tokens);
  const SampledKernels& kernels = sampled_kernels(isa());
  const std::size_t rows = plan.rows.size();
  const std::vector<std::int32_t> columns = dy_columns(plan, o);
  const auto count = static_cast<std::int64_t>(columns.size());
  const at::Tensor panel = numbers(count * kFewTokens);
  float* factors = panel.mutable_data_ptr<float>();
  kernels.transpose(factors, kFewTokens, o.dy, 0, static_cast<int>(o.tokens),
                    columns.data(), count);
  constexpr std::int64_t kLines = 32;  // share what is read of x
  at::parallel_for(
      0, count, 2 * kLines, [&](std::int64_t begin, std::int64_t end) {
        std::array<CombinedLine, kLines> lines;
        for (std::int64_t i = begin; i < end; i += kLines) {
          const std::int64_t n = std::min(kLines, end - i);
          const auto row = static_cast<std::size_t>(o.row_begin + i);
          for (std::size_t j = 0; j < static_cast<std::size_t>(n); ++j) {
            lines[j].out = o.grad + plan.row_begin[row + j];
          }
          for (std::int64_t c = 0; c < plan.in; c += kTile) {
            const MaskPlan::Stretch* stretch =
                &plan.stretches[static_cast<std::size_t>(c / kTile) * rows +
                                row];
            for (std::size_t j = 0; j < static_cast<std::size_t>(n); ++j) {
              lines[j].bits = stretch[j].bits;
            }
            kernels.combine(lines.data(), static_cast<int>(n), o.accumulate,
                            factors + i * kFewTokens, kFewTokens,
                            static_cast<int>(o.tokens), x.data + c, x.row);
          }
        }
      });
}

}  // namespace

void masked_product(const MaskPlan& plan, const MaskedOperands& operands,
                    MaskPath path) {
  const bool by_rows = path == MaskPath::kRows;
  if (by_rows && operands.tokens <= kFewTokens && !plan.stretches.empty()) {
    return product_of_few(plan, operands);
  }
  const PanelSource& chosen = by_rows ? operands.dy : operands.x;
  const PanelSource& other = by_rows ? operands.x : operands.dy;
  const std::vector<std::int32_t> lines_of =
      by_rows ? dy_columns(plan, operands) : plan.columns;
  const Gather gather(plan, operands, path);
  const std::int64_t count = static_cast<std::int64_t>(lines_of.size());
  const std::int64_t stride = panel_stride(operands.tokens);
  const at::Tensor panel = numbers(std::min(count, kMostLines) * stride);
  for (std::int64_t first = 0; first < count; first += kMostLines) {
    const std::int64_t lines = std::min(kMostLines, count - first);
    float* to = panel.mutable_data_ptr<float>();
    make_panel(to, stride, sampled_kernels(isa()), chosen,
               lines_of.data() + first, lines, operands.tokens);
    const Product product{to, stride, first, lines, other, operands.tokens};
    if (has_micro_kernel(at::kFloat)) {
      tiled_product(product, gather);
    } else {
      library_product(product, gather);
    }
  }
}

}  // namespace thinwire
