#define TORCH_ASSERT_ONLY_METHOD_OPERATORS
#include "ops/matmul_tiles.h"

#include <ATen/Parallel.h>
#include <ATen/native/CPUBlas.h>

#include <algorithm>
#include <cstring>

#include "base/clones.h"
#include "ops/aligned_buffer.h"
#include "ops/transpose.h"
#include "ops/turned_product.h"
#include "ops/widen_int8.h"

namespace thinwire {
namespace {

// One tile of b stays in the second-level cache while all rows of a pass it;
// measured on Zen 4 (1 MiB): 64 x 1024 at 110 GFLOP/s, MKL at 97.
constexpr std::int64_t kColumns = 64, kDepth = 1024, kRows = 64;

float* scratch() {
  static thread_local const AlignedBuffer tile =
      make_aligned_buffer(kColumns * kDepth);
  return tile.get();
}

// Rows 2 i and 2 i + 1 of b side by side, number by number: what the
// micro-kernel multiplies bf16 pairs from.
THINWIRE_CLONE_BODY void interleave_body(std::uint32_t* __restrict out,
                                         const std::uint16_t* __restrict even,
                                         const std::uint16_t* __restrict odd,
                                         std::int64_t n) {
  for (std::int64_t j = 0; j < n; ++j) {
    out[j] = static_cast<std::uint32_t>(even[j]) |
             static_cast<std::uint32_t>(odd[j]) << 16;
  }
}
constexpr Clones<&interleave_body> interleave;

struct Tile {
  std::int64_t column, columns, depth_begin, depth;
};

struct Packed {
  const void* data;
  std::int64_t row;
};

// [depth, columns] of b, rows kColumns apart, or where it lies.
Packed pack_fp32(const Product& p, const Tile& t) {
  if (p.int8) {
    const auto* b = static_cast<const std::int8_t*>(p.b);
    float* to = scratch();
    if (p.transposed) {
      widen_transposed(t.columns, t.depth,
                       b + t.column * p.row_b + t.depth_begin, p.row_b, to,
                       kColumns);
    } else {
      for (std::int64_t i = 0; i < t.depth; ++i) {
        widen(to + i * kColumns, b + (t.depth_begin + i) * p.row_b + t.column,
              t.columns);
      }
    }
    return {to, kColumns};
  }
  const auto* b = static_cast<const float*>(p.b);
  float* to = scratch();
  if (p.transposed) {
    transpose(t.columns, t.depth, b + t.column * p.row_b + t.depth_begin,
              p.row_b, to, kColumns);
    return {to, kColumns};
  }
  const float* from = b + t.depth_begin * p.row_b + t.column;
  // Few rows of a read the tile less often than a copy would; narrow ones lie
  // close together anyway.
  if (p.m <= 2 * kRows || p.row_b <= 512) return {from, p.row_b};
  for (std::int64_t i = 0; i < t.depth; ++i) {
    std::memcpy(to + i * kColumns, from + i * p.row_b,
                static_cast<std::size_t>(t.columns) * sizeof(float));
  }
  return {to, kColumns};
}

Packed pack_int8_pairs(const Product& p, const Tile& t) {
  const auto* b = static_cast<const std::int8_t*>(p.b);
  float* to = scratch();
  if (p.transposed) {
    widen_pairs_transposed(t.columns, t.depth,
                           b + t.column * p.row_b + t.depth_begin, p.row_b, to,
                           kColumns);
  } else {
    for (std::int64_t i = 0; i < t.depth; i += 2) {
      const auto* even = b + (t.depth_begin + i) * p.row_b + t.column;
      interleave_widened(
          reinterpret_cast<std::uint32_t*>(to + i / 2 * kColumns), even,
          even + p.row_b, t.columns);
    }
  }
  return {to, kColumns};
}

// [depth / 2, columns] of pairs.
Packed pack_bf16(const Product& p, const Tile& t) {
  if (p.int8) return pack_int8_pairs(p, t);
  const auto* b = static_cast<const std::uint16_t*>(p.b);
  float* to = scratch();
  if (p.transposed) {  // a pair lies as one 32-bit number already
    transpose(
        t.columns, t.depth / 2,
        reinterpret_cast<const float*>(b + t.column * p.row_b + t.depth_begin),
        p.row_b / 2, to, kColumns);
  } else {
    for (std::int64_t i = 0; i < t.depth; i += 2) {
      const auto* even = b + (t.depth_begin + i) * p.row_b + t.column;
      interleave(reinterpret_cast<std::uint32_t*>(to + i / 2 * kColumns), even,
                 even + p.row_b, t.columns);
    }
  }
  return {to, kColumns};
}

template <class T>
void multiply(const Product& p, const Tile& t, const Packed& b,
              std::int64_t row_begin, std::int64_t row_end, bool add) {
  constexpr bool kPairs = !std::is_same_v<T, float>;
  const auto* a = static_cast<const T*>(p.a);
  for (std::int64_t i = row_begin; i < row_end; i += kRows) {
    const std::int64_t rows = std::min(kRows, row_end - i);
    float* out = p.out + i * p.row_out + t.column;
    // Scaled results get their bias when they are scaled.
    const bool bias = p.bias != nullptr && p.scale == nullptr;
    if (t.depth_begin == 0 && bias) {
      for (std::int64_t r = 0; r < rows; ++r) {
        std::memcpy(out + r * p.row_out, p.bias + t.column,
                    static_cast<std::size_t>(t.columns) * sizeof(float));
      }
    }
    at::native::cpublas::brgemm(rows, t.columns, t.depth, p.row_a, b.row,
                                p.row_out, add || bias,
                                a + i * p.row_a + t.depth_begin,
                                static_cast<const T*>(b.data), out, kPairs);
    if (p.scale != nullptr && t.depth_begin + t.depth == p.k) {
      scale_columns(out, rows, t.columns, p.row_out, p.scale + t.column,
                    p.bias == nullptr ? nullptr : p.bias + t.column);
    }
  }
}

// out += of the thin product, the same columns.
void multiply_thin(const Product& p, std::int64_t column, std::int64_t columns,
                   std::int64_t row_begin, std::int64_t row_end) {
  Product thin{.a = p.thin.a,
               .b = p.thin.b,
               .out = p.out,
               .m = p.m,
               .n = p.n,
               .row_a = p.thin.row_a,
               .row_b = p.thin.row_b,
               .row_out = p.row_out,
               .transposed = p.transposed};
  for (std::int64_t d = 0; d < p.thin.k; d += kDepth) {
    const Tile tile{column, columns, d, std::min(kDepth, p.thin.k - d)};
    multiply<float>(thin, tile, pack_fp32(thin, tile), row_begin, row_end,
                    /*add=*/true);
  }
}

}  // namespace

void tiled_product(const Product& p, at::ScalarType type) {
  if (better_turned(p)) return turned_product(p, type);
  const bool bf16 = type == at::kBFloat16;
  const std::int64_t column_tiles = (p.n + kColumns - 1) / kColumns;
  // Narrow results: several threads share a tile's columns, each packs its own.
  const std::int64_t row_tiles = (p.m + kRows - 1) / kRows;
  const std::int64_t parts =
      std::clamp<std::int64_t>(at::get_num_threads() / column_tiles, 1,
                               std::max<std::int64_t>(1, row_tiles / 4));
  const std::int64_t part_rows = (row_tiles + parts - 1) / parts * kRows;
  at::parallel_for(
      0, column_tiles * parts, 1, [&](std::int64_t begin, std::int64_t end) {
        for (std::int64_t task = begin; task < end; ++task) {
          const std::int64_t row = task % parts * part_rows;
          const std::int64_t row_end = std::min(p.m, row + part_rows);
          const std::int64_t column = task / parts * kColumns;
          for (std::int64_t d = 0; d < p.k; d += kDepth) {
            const Tile tile{column, std::min(kColumns, p.n - column), d,
                            std::min(kDepth, p.k - d)};
            if (bf16) {
              multiply<at::BFloat16>(p, tile, pack_bf16(p, tile), row, row_end,
                                     d > 0);
            } else {
              multiply<float>(p, tile, pack_fp32(p, tile), row, row_end, d > 0);
            }
          }
          if (p.thin.k > 0) {
            multiply_thin(p, column, std::min(kColumns, p.n - column), row,
                          row_end);
          }
        }
        if (bf16) at::native::cpublas::brgemm_release();
      });
}

}  // namespace thinwire
