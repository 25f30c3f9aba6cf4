#define TORCH_ASSERT_ONLY_METHOD_OPERATORS
#include "ops/squared_gradient.h"

#include <ATen/Parallel.h>
#include <ATen/native/CPUBlas.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <tuple>

#include "base/clones.h"
#include "base/error.h"
#include "ops/aligned_buffer.h"
#include "ops/micro_kernel.h"
#include "ops/reference.h"
#include "ops/transpose.h"

namespace thinwire {
namespace {

// A tile of the gradient and the same tile of the sum stay in the second-level
// cache together with the tile's columns of dy.
constexpr std::int64_t kRows = 64, kColumns = 256;

// Row t of a look-up's dy is part of the gradient's row `row`.
struct LookedUp {
  std::int64_t row, sequence;
  const float* dy;
};

struct Products {
  const float *x, *dy;
  std::int64_t row_x, row_dy, column_dy;  // column_dy 1, else row_dy 1
  std::span<const std::int64_t> offsets;
};

struct Tile {
  std::int64_t row, rows, column, columns;
};

THINWIRE_CLONE_BODY void square_into_body(float* squares, const float* grads,
                                          std::int64_t n, float weight) {
  for (std::int64_t i = 0; i < n; ++i) {
    squares[i] += weight * (grads[i] * grads[i]);
  }
}
constexpr Clones<&square_into_body> square_into;

THINWIRE_CLONE_BODY void add_row_body(float* sum, const float* row,
                                      std::int64_t n) {
  for (std::int64_t i = 0; i < n; ++i) sum[i] += row[i];
}
constexpr Clones<&add_row_body> add_row;

THINWIRE_CLONE_BODY void add_outer_body(float* out, std::int64_t row_out,
                                        const float* a, std::int64_t row_a,
                                        std::int64_t m, const float* b,
                                        std::int64_t row_b, std::int64_t n,
                                        std::int64_t k) {
  for (std::int64_t i = 0; i < m; ++i) {
    for (std::int64_t t = 0; t < k; ++t) {
      const float factor = a[i * row_a + t];
      for (std::int64_t j = 0; j < n; ++j) {
        out[i * row_out + j] += factor * b[t * row_b + j];
      }
    }
  }
}
constexpr Clones<&add_outer_body> add_outer;

// out [m, n] (+)= a [m, k] b [k, n]
void multiply(float* out, std::int64_t row_out, const float* a,
              std::int64_t row_a, std::int64_t m, const float* b,
              std::int64_t row_b, std::int64_t n, std::int64_t k, bool add) {
  if (has_micro_kernel(at::kFloat) && k > 0) {
    at::native::cpublas::brgemm(m, n, k, row_a, row_b, row_out, add, a, b, out);
    return;
  }
  if (!add) {
    for (std::int64_t i = 0; i < m; ++i) std::fill_n(out + i * row_out, n, 0);
  }
  add_outer(out, row_out, a, row_a, m, b, row_b, n, k);
}

// Everything about one call that its tiles share. Not squared: the gradients
// are added as they are, weights aside.
class Pass {
 public:
  Pass(float* sums, std::int64_t m, std::int64_t n,
       std::span<const WeightUse> uses, std::span<const float> weights,
       bool squared)
      : sums_(sums), m_(m), n_(n), weights_(weights), squared_(squared) {
    for (const WeightUse& use : uses) {
      THINWIRE_ASSERT(use.offsets.size() == weights.size() + 1 &&
                          use.dy.size(0) == use.offsets.back() &&
                          use.dy.scalar_type() == at::kFloat &&
                          (use.dy.stride(1) == 1 || !use.rows.defined()),
                      "{} weights, {} offsets, {} rows", weights.size(),
                      use.offsets.size(), use.dy.size(0));
      use.rows.defined() ? add_look_up(use) : add_product(use);
    }
  }

  void run() {
    const bool dense = !products_.empty();
    const auto place = [&](const LookedUp& l) {
      return std::tuple(dense ? l.row / kRows : l.row, l.sequence, l.row);
    };
    std::ranges::stable_sort(looked_up_, [&](const auto& a, const auto& b) {
      return place(a) < place(b);
    });
    if (!dense) return run_rows();
    const std::int64_t row_tiles = (m_ + kRows - 1) / kRows;
    at::parallel_for(0, row_tiles, 1, [&](std::int64_t i, std::int64_t end) {
      const AlignedBuffer grads = make_aligned_buffer(kRows * kColumns);
      const AlignedBuffer columns = make_aligned_buffer(kRows * depth_);
      for (; i < end; ++i) {
        const std::int64_t row = i * kRows;
        run_tiles(row, std::min(kRows, m_ - row), grads.get(), columns.get());
      }
    });
  }

 private:
  void add_product(const WeightUse& use) {
    THINWIRE_ASSERT(
        use.x.dim() == 2 && use.x.size(0) == use.dy.size(0) &&
            use.x.size(1) == n_ && use.dy.size(1) == m_ &&
            use.x.scalar_type() == at::kFloat && use.x.stride(1) == 1 &&
            (use.dy.stride(1) == 1 || use.dy.stride(0) == 1),
        "x [{}, {}], dy [{}, {}] for a weight [{}, {}]", use.x.size(0),
        use.x.size(1), use.dy.size(0), use.dy.size(1), m_, n_);
    products_.push_back({use.x.const_data_ptr<float>(),
                         use.dy.const_data_ptr<float>(), use.x.stride(0),
                         use.dy.stride(0), use.dy.stride(1), use.offsets});
    depth_ += use.dy.size(0);
  }

  void add_look_up(const WeightUse& use) {
    THINWIRE_ASSERT(use.rows.numel() == use.dy.size(0) &&
                        use.dy.size(1) == n_ && use.rows.is_contiguous(),
                    "{} look-ups, dy [{}, {}] for a weight [{}, {}]",
                    use.rows.numel(), use.dy.size(0), use.dy.size(1), m_, n_);
    const auto* rows = use.rows.const_data_ptr<std::int64_t>();
    const auto* dy = use.dy.const_data_ptr<float>();
    for (std::size_t b = 0; b + 1 < use.offsets.size(); ++b) {
      for (std::int64_t t = use.offsets[b]; t < use.offsets[b + 1]; ++t) {
        THINWIRE_ASSERT(rows[t] < m_, "row {} of {}", rows[t], m_);
        if (rows[t] < 0) continue;
        looked_up_.push_back(
            {rows[t], static_cast<std::int64_t>(b), dy + t * use.dy.stride(0)});
      }
    }
  }

  // Look-ups alone: the rows they touch, one by one.
  void run_rows() {
    const AlignedBuffer sum = make_aligned_buffer(n_);
    for (std::size_t i = 0; i < looked_up_.size();) {
      const LookedUp& first = looked_up_[i];
      std::copy_n(first.dy, n_, sum.get());
      for (++i; i < looked_up_.size() && looked_up_[i].row == first.row &&
                looked_up_[i].sequence == first.sequence;
           ++i) {
        add_row(sum.get(), looked_up_[i].dy, n_);
      }
      add(first.row * n_, sum.get(), n_,
          static_cast<std::size_t>(first.sequence));
    }
  }

  // n numbers of sequence b's gradient.
  void add(std::int64_t at, const float* grads, std::int64_t n,
           std::size_t b) const {
    if (squared_) {
      square_into(sums_ + at, grads, n, weights_[b]);
    } else {
      add_row(sums_ + at, grads, n);
    }
  }

  // dy's columns of these rows of the weight, transposed, sequence by sequence
  // and use by use.
  void pack(std::int64_t row, std::int64_t rows, float* to) const {
    for (std::size_t b = 0; b < weights_.size(); ++b) {
      for (const Products& p : products_) {
        const std::int64_t length = p.offsets[b + 1] - p.offsets[b];
        const float* from = p.dy + p.offsets[b] * p.row_dy + row * p.column_dy;
        if (p.column_dy == 1) {
          transpose(length, rows, from, p.row_dy, to, length);
        } else {
          for (std::int64_t r = 0; r < rows; ++r) {
            std::copy_n(from + r * p.column_dy, length, to + r * length);
          }
        }
        to += rows * length;
      }
    }
  }

  void run_tiles(std::int64_t row, std::int64_t rows, float* grads,
                 float* columns) const {
    pack(row, rows, columns);
    const auto after = [&](std::int64_t r) {
      return std::ranges::lower_bound(
          looked_up_, r / kRows, {},
          [](const auto& l) { return l.row / kRows; });
    };
    const std::span looked_up(after(row), after(row + kRows));
    for (std::int64_t c = 0; c < n_; c += kColumns) {
      run_tile({row, rows, c, std::min(kColumns, n_ - c)}, looked_up, grads,
               columns);
    }
  }

  void run_tile(const Tile& t, std::span<const LookedUp> looked_up,
                float* grads, const float* packed) const {
    auto next = looked_up.begin();
    for (std::size_t b = 0; b < weights_.size(); ++b) {
      bool more = false;
      for (const Products& p : products_) {
        const std::int64_t length = p.offsets[b + 1] - p.offsets[b];
        multiply(grads, t.columns, packed, length, t.rows,
                 p.x + p.offsets[b] * p.row_x + t.column, p.row_x, t.columns,
                 length, more);
        packed += t.rows * length;
        more = true;
      }
      for (; next != looked_up.end() &&
             next->sequence == static_cast<std::int64_t>(b);
           ++next) {
        add_row(grads + (next->row - t.row) * t.columns, next->dy + t.column,
                t.columns);
      }
      for (std::int64_t r = 0; r < t.rows; ++r) {
        add((t.row + r) * n_ + t.column, grads + r * t.columns, t.columns, b);
      }
    }
  }

  float* sums_;
  std::int64_t m_, n_, depth_ = 0;
  std::span<const float> weights_;
  bool squared_;
  std::vector<Products> products_;
  std::vector<LookedUp> looked_up_;  // by (tile of rows, sequence)
};

void check(const at::Tensor& sums) {
  THINWIRE_ASSERT(sums.dim() == 2 && sums.is_contiguous() &&
                      sums.scalar_type() == at::kFloat,
                  "sums are a contiguous fp32 matrix, not of {} dimensions",
                  sums.dim());
}

}  // namespace

void add_squared_gradients(at::Tensor squares, std::span<const WeightUse> uses,
                           std::span<const float> weights) {
  check(squares);
  if (plain_twin(squares)) {
    return add_squared_gradients_reference(squares, uses, weights);
  }
  Pass(squares.mutable_data_ptr<float>(), squares.size(0), squares.size(1),
       uses, weights, /*squared=*/true)
      .run();
}

void add_gradients(at::Tensor sums, std::span<const WeightUse> uses) {
  check(sums);
  if (plain_twin(sums)) return add_gradients_reference(sums, uses);
  std::vector<WeightUse> whole(uses.begin(), uses.end());  // one sequence
  for (WeightUse& use : whole) use.offsets = {0, use.dy.size(0)};
  const float weight = 1;
  Pass(sums.mutable_data_ptr<float>(), sums.size(0), sums.size(1), whole,
       {&weight, 1}, /*squared=*/false)
      .run();
}

at::Tensor sequence_sums(const at::Tensor& rows,
                         std::span<const std::int64_t> offsets) {
  THINWIRE_ASSERT(rows.dim() == 2 && offsets.back() == rows.size(0) &&
                      rows.scalar_type() == at::kFloat,
                  "{} rows, offsets up to {}", rows.size(0), offsets.back());
  if (plain_twin(rows)) return sequence_sums_reference(rows, offsets);
  const std::int64_t n = rows.size(1);
  const at::Tensor packed = rows.contiguous();
  const auto* row = packed.const_data_ptr<float>();
  at::Tensor sums =
      at::zeros({static_cast<std::int64_t>(offsets.size()) - 1, n}, at::kFloat);
  auto* sum = sums.mutable_data_ptr<float>();
  for (std::size_t b = 0; b + 1 < offsets.size(); ++b, sum += n) {
    for (std::int64_t t = offsets[b]; t < offsets[b + 1]; ++t, row += n) {
      add_row(sum, row, n);
    }
  }
  return sums;
}

void add_squares(float* squares, const float* grads, std::int64_t n,
                 float weight) {
  square_into(squares, grads, n, weight);
}

}  // namespace thinwire
