// Small matrix products on vectors of one instruction set. Internal to the
// files ops/attention_<isa>.cpp, which set the compiler to it and hand in the
// trait S: V, a GCC vector of kW floats, and I, of as many int32; kVectors,
// the widest tile in vectors; load, store, all, fma, load_part.
#pragma once

#include <cstdint>

#include "ops/attention_head.h"

namespace thinwire::tile {

constexpr std::int64_t round_up(std::int64_t n, std::int64_t to) {
  return (n + to - 1) / to * to;
}
constexpr std::int64_t smaller(std::int64_t a, std::int64_t b) {
  return a < b ? a : b;
}
constexpr std::int64_t larger(std::int64_t a, std::int64_t b) {
  return a < b ? b : a;
}

// A matrix [rows, columns] cut into panels of kPanel columns (the last one as
// many as are left, rounded up to whole vectors), each contiguous: a tile reads
// its panel front to back, and no two rows compete for one cache set.
template <class S>
struct Panels {
  static constexpr std::int64_t kPanel = S::kVectors * S::kW;

  float* data = nullptr;
  std::int64_t rows = 0, columns = 0;  // columns: a multiple of kW

  static std::int64_t size(std::int64_t rows, std::int64_t columns) {
    return rows * round_up(columns, S::kW);
  }
  float* panel(std::int64_t first_column) const {
    return data + first_column * rows;
  }
  std::int64_t panel_width(std::int64_t first_column) const {
    return smaller(kPanel, columns - first_column);
  }
};

// C [m, kN kW] (+)= A [m, k] B [k, kN kW] for m = kM. A's element (i, l) lies
// at a[i * row_a + l * column_a], so that A may be the transpose of a matrix.
template <class S, int kM, int kN>
void multiply(std::int64_t k, const float* a, std::int64_t row_a,
              std::int64_t column_a, const float* b, std::int64_t row_b,
              float* c, std::int64_t row_c, bool add) {
  using V = typename S::V;
  V sum[kM][kN];
#pragma GCC unroll 16
  for (int i = 0; i < kM; ++i) {
#pragma GCC unroll 16
    for (int j = 0; j < kN; ++j) sum[i][j] = V{};
  }
  for (std::int64_t l = 0; l < k; ++l) {
    V row[kN];
#pragma GCC unroll 16
    for (int j = 0; j < kN; ++j) row[j] = S::load(b + l * row_b + j * S::kW);
#pragma GCC unroll 16
    for (int i = 0; i < kM; ++i) {
      const V x = S::all(a[i * row_a + l * column_a]);
#pragma GCC unroll 16
      for (int j = 0; j < kN; ++j) sum[i][j] = S::fma(x, row[j], sum[i][j]);
    }
  }
#pragma GCC unroll 16
  for (int i = 0; i < kM; ++i) {
#pragma GCC unroll 16
    for (int j = 0; j < kN; ++j) {
      float* to = c + i * row_c + j * S::kW;
      S::store(to, add ? S::load(to) + sum[i][j] : sum[i][j]);
    }
  }
}

struct Operand {
  const float* data;
  std::int64_t row, column;
};

// One panel: tiles of kM rows, then one of the rows that are left.
template <class S, int kM, int kN>
void multiply_panel(std::int64_t m, std::int64_t k, const Operand& a,
                    const float* b, float* c, std::int64_t row_c, bool add) {
  constexpr std::int64_t kRowB = kN * S::kW;
  std::int64_t i = 0;
  for (; i + kM <= m; i += kM) {
    multiply<S, kM, kN>(k, a.data + i * a.row, a.row, a.column, b, kRowB,
                        c + i * row_c, row_c, add);
  }
  const auto rest = [&]<int kRest>(const auto& self) {
    if constexpr (kRest > 0) {
      if (m - i == kRest) {
        multiply<S, kRest, kN>(k, a.data + i * a.row, a.row, a.column, b, kRowB,
                               c + i * row_c, row_c, add);
      } else {
        self.template operator()<kRest - 1>(self);
      }
    }
  };
  rest.template operator()<kM - 1>(rest);
}

// C (+)= A [m, k] B, of B's first k rows and at least its first `columns`
// columns; C's rows have room for all of them.
template <class S>
void multiply(std::int64_t m, std::int64_t k, const Operand& a,
              const Panels<S>& b, std::int64_t columns, float* c,
              std::int64_t row_c, bool add) {
  for (std::int64_t j = 0; j < columns; j += Panels<S>::kPanel) {
    const float* panel = b.panel(j);
    switch (b.panel_width(j) / S::kW) {
      case 1:
        multiply_panel<S, S::kRows1, 1>(m, k, a, panel, c + j, row_c, add);
        break;
      case 2:
        multiply_panel<S, S::kRows2, 2>(m, k, a, panel, c + j, row_c, add);
        break;
      case 3:
        if constexpr (S::kVectors > 2) {
          multiply_panel<S, S::kRows3, 3>(m, k, a, panel, c + j, row_c, add);
        }
        break;
      case 4:
        if constexpr (S::kVectors > 2) {
          multiply_panel<S, S::kRows4, 4>(m, k, a, panel, c + j, row_c, add);
        }
        break;
      default:
        break;
    }
  }
}

// Rows [first, first + n) of B from `from`, zeros behind the width.
template <class S>
void pack_rows(const Panels<S>& to, std::int64_t first, std::int64_t n,
               const float* from, std::int64_t row_from, std::int64_t width) {
  for (std::int64_t j = 0; j < to.columns; j += Panels<S>::kPanel) {
    const std::int64_t panel_width = to.panel_width(j);
    const std::int64_t whole = smaller(panel_width, width - j) / S::kW * S::kW;
    float* out = to.panel(j) + first * panel_width;
    for (std::int64_t i = 0; i < n; ++i, out += panel_width) {
      const float* in = from + i * row_from + j;
      for (std::int64_t l = 0; l < whole; l += S::kW) {
        S::store(out + l, S::load(in + l));
      }
      if (whole < panel_width) {
        S::store(out + whole, S::load_part(in + whole, width - j - whole));
      }
    }
  }
}

// Columns [first, first + n) of B from the n rows at `from`, B.rows wide.
template <class S>
void pack_columns(const Panels<S>& to, std::int64_t first, std::int64_t n,
                  const float* from, std::int64_t row_from) {
  constexpr std::int64_t kPanel = Panels<S>::kPanel;
  const std::int64_t end = first + n;
  for (std::int64_t j = first; j < end;) {
    const std::int64_t panel = j / kPanel * kPanel;
    const std::int64_t next = smaller(end, panel + kPanel);
    transpose(next - j, to.rows, from + (j - first) * row_from, row_from,
              to.panel(panel) + j - panel, to.panel_width(panel));
    j = next;
  }
}

// Zeros in columns [first, columns).
template <class S>
void clear_columns(const Panels<S>& to, std::int64_t first) {
  if (first == to.columns) return;
  const std::int64_t panel = first / Panels<S>::kPanel * Panels<S>::kPanel;
  const std::int64_t width = to.panel_width(panel);
  for (std::int64_t i = 0; i < to.rows; ++i) {
    float* row = to.panel(panel) + i * width;
    for (std::int64_t j = first - panel; j < width; ++j) row[j] = 0;
  }
}

}  // namespace thinwire::tile
