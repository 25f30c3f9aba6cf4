#include "ops/adafactor_pass.h"

#include <cmath>
#include <numeric>
#include <vector>

#include "base/clones.h"
#include "ops/optimizer_blocks.h"
#include "ops/optimizer_pass.h"

namespace thinwire {
namespace {

constexpr int kLanes = 16;                // partial sums, spelled out
constexpr std::int64_t kBlock = 4096;     // numbers added up in fp32
constexpr std::int64_t kChunk = 1 << 14;  // numbers of a matrix's row chunk

inline float add_lanes(const float (&lanes)[kLanes], float sum) {
  for (int i = 0; i < kLanes; ++i) sum += lanes[i];
  return sum;
}

// v += rest (g^2 + epsilon - v); returns the sum of the squared updates.
THINWIRE_CLONE_BODY float second_moment_body(float* __restrict v,
                                             const float* __restrict grads,
                                             std::int64_t n, float scale,
                                             float beta2, float rest,
                                             float epsilon) {
  float lanes[kLanes] = {};
  const auto one = [&](std::int64_t i) {
    const float g = grads[i] * scale;
    v[i] = beta2 * v[i] + rest * (g * g + epsilon);
    const float u = g / std::sqrt(v[i]);
    return u * u;
  };
  std::int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) {
    for (int j = 0; j < kLanes; ++j) lanes[j] += one(i + j);
  }
  float sum = 0;
  for (; i < n; ++i) sum += one(i);
  return add_lanes(lanes, sum);
}
constexpr Clones<&second_moment_body> second_moment;

// The same for numbers of several ages; these lie in runs.
float second_moment_by_age(float* v, const float* grads, const float* ages,
                           std::int64_t n, const AdafactorStep& s) {
  const auto scale = static_cast<float>(s.grad_scale);
  const auto epsilon = static_cast<float>(s.epsilon1);
  float age = 0, beta2 = 0, rest = 1, sum = 0;
  for (std::int64_t i = 0; i < n; ++i) {
    if (ages[i] > 1 && ages[i] != age) {
      const double kept = std::pow(static_cast<double>(ages[i]), s.decay_rate);
      beta2 = static_cast<float>(1 - kept);
      rest = static_cast<float>(kept);
      age = ages[i];
    } else if (ages[i] <= 1) {
      beta2 = age = 0;
      rest = 1;
    }
    const float g = grads[i] * scale;
    v[i] = beta2 * v[i] + rest * (g * g + epsilon);
    const float u = g / std::sqrt(v[i]);
    sum += u * u;
  }
  return sum;
}

struct Factors {
  float grad, keep, pull, rate, beta1, beta1_rest;
};

// Root mean square of n numbers whose squares sum to `squares`.
double root_mean(double squares, std::int64_t n) {
  return std::sqrt(squares / static_cast<double>(n));
}

// What is known once the update's length is: `squares` are its numbers'.
Factors factors(const AdafactorStep& s, double scale_of_values, double squares,
                std::int64_t n) {
  const double lr = s.lr * scale_of_values;
  const double clip = std::max(1.0, root_mean(squares, n) / s.clip_threshold);
  return {.grad = static_cast<float>(s.grad_scale),
          .keep = static_cast<float>(1 - lr * s.weight_decay),
          .pull = static_cast<float>(lr * s.weight_decay),
          .rate = static_cast<float>(lr / clip),
          .beta1 = static_cast<float>(s.beta1),
          .beta1_rest = static_cast<float>(1 - s.beta1)};
}

double scale_of(const float* values, std::int64_t n, const AdafactorStep& s) {
  if (!s.scale_parameter) return 1;
  return std::max(s.epsilon2, root_mean(sum_of_squares(values, n), n));
}

// The step by `update`, rate included.
inline void apply(float* value, float* m, const float* towards, std::int64_t i,
                  float update, const Factors& f) {
  if (m != nullptr) {
    m[i] = f.beta1 * m[i] + f.beta1_rest * update;
    update = m[i];
  }
  float p = value[i] * f.keep;
  if (towards != nullptr) p += f.pull * towards[i];
  value[i] = p - update;
}

THINWIRE_CLONE_BODY void apply_range_body(float* __restrict values,
                                          const float* __restrict grads,
                                          float* __restrict m,
                                          const float* __restrict v,
                                          const float* towards, std::int64_t n,
                                          Factors f) {
  for (std::int64_t i = 0; i < n; ++i) {
    const float u = grads[i] * f.grad / std::sqrt(v[i]);
    apply(values, m, towards, i, f.rate * u, f);
  }
}
constexpr Clones<&apply_range_body> apply_range;

// Squared gradients of rows of one matrix, epsilon added: row_sums[r], and
// column_sums[c] += them.
THINWIRE_CLONE_BODY void sum_rows_and_columns_body(
    float* __restrict row_sums, float* __restrict column_sums,
    const float* __restrict grads, std::int64_t rows, std::int64_t columns,
    float scale, float epsilon) {
  for (std::int64_t r = 0; r < rows; ++r) {
    const float* row = grads + r * columns;
    float lanes[kLanes] = {};
    const auto one = [&](std::int64_t c) {
      const float g = row[c] * scale;
      const float square = g * g + epsilon;
      column_sums[c] += square;
      return square;
    };
    std::int64_t c = 0;
    for (; c + kLanes <= columns; c += kLanes) {
      for (int j = 0; j < kLanes; ++j) lanes[j] += one(c + j);
    }
    float sum = 0;
    for (; c < columns; ++c) sum += one(c);
    row_sums[r] = add_lanes(lanes, sum);
  }
}
constexpr Clones<&sum_rows_and_columns_body> sum_rows_and_columns;

// Of the updates g row_factor column_factor: the sum of squares.
THINWIRE_CLONE_BODY double sum_updates_body(
    const float* __restrict grads, const float* __restrict row_factors,
    const float* __restrict column_factors, std::int64_t rows,
    std::int64_t columns, float scale) {
  double total = 0;
  for (std::int64_t r = 0; r < rows; ++r) {
    const float* row = grads + r * columns;
    float lanes[kLanes] = {};
    const auto one = [&](std::int64_t c) {
      const float u = row[c] * scale * (row_factors[r] * column_factors[c]);
      return u * u;
    };
    std::int64_t c = 0;
    for (; c + kLanes <= columns; c += kLanes) {
      for (int j = 0; j < kLanes; ++j) lanes[j] += one(c + j);
    }
    float sum = 0;
    for (; c < columns; ++c) sum += one(c);
    total += add_lanes(lanes, sum);
  }
  return total;
}
constexpr Clones<&sum_updates_body> sum_updates;

THINWIRE_CLONE_BODY void apply_rows_body(
    float* __restrict values, const float* __restrict grads,
    float* __restrict m, const float* __restrict row_factors,
    const float* __restrict column_factors, const float* towards,
    std::int64_t rows, std::int64_t columns, Factors f) {
  for (std::int64_t r = 0; r < rows; ++r) {
    for (std::int64_t c = 0; c < columns; ++c) {
      const std::int64_t i = r * columns + c;
      const float u = grads[i] * f.grad * (row_factors[r] * column_factors[c]);
      apply(values, m, towards, i, f.rate * u, f);
    }
  }
}
constexpr Clones<&apply_rows_body> apply_rows;

// Rows [row, row + rows) of the stack, all of one matrix.
struct Chunk {
  std::int64_t matrix, row, rows;
};

std::vector<Chunk> cut(std::int64_t matrices, std::int64_t rows,
                       std::int64_t columns) {
  const std::int64_t most = std::max<std::int64_t>(1, kChunk / columns);
  std::vector<Chunk> chunks;
  for (std::int64_t m = 0; m < matrices; ++m) {
    for (std::int64_t r = 0; r < rows; r += most) {
      chunks.push_back({m, m * rows + r, std::min(most, rows - r)});
    }
  }
  return chunks;
}

template <class F>
void for_each_chunk(const std::vector<Chunk>& chunks, const F& f) {
  at::parallel_for(0, static_cast<std::int64_t>(chunks.size()), kGrain / kChunk,
                   [&](std::int64_t begin, std::int64_t end) {
                     for (std::int64_t i = begin; i < end; ++i) {
                       f(static_cast<std::size_t>(i));
                     }
                   });
}

// moments = beta2 moments + (1 - beta2) mean
void average(float* moments, const double* sums, std::int64_t n,
             std::int64_t count, double kept) {
  const auto beta2 = static_cast<float>(1 - kept);
  const auto rest = static_cast<float>(kept);
  for (std::int64_t i = 0; i < n; ++i) {
    const auto mean = static_cast<float>(sums[i] / static_cast<double>(count));
    moments[i] = beta2 * moments[i] + rest * mean;
  }
}

// A stack of matrices, and how its rows are cut.
struct Stack {
  std::int64_t matrices, rows, columns;
  std::vector<Chunk> chunks;
  std::size_t all_rows() const {
    return static_cast<std::size_t>(matrices * rows);
  }
  std::size_t all_columns() const {
    return static_cast<std::size_t>(matrices * columns);
  }
};

// Into both moments the means of the squared gradients. A chunk adds its
// columns up by itself; the chunks are added in order.
void factored_moments(float* row_v, float* column_v, const float* grads,
                      const Stack& t, const AdafactorStep& s) {
  const double kept = std::pow(static_cast<double>(s.step), s.decay_rate);
  const auto width = static_cast<std::size_t>(t.columns);
  std::vector<float> row_sums(t.all_rows());
  std::vector<float> parts(t.chunks.size() * width);
  for_each_chunk(t.chunks, [&](std::size_t i) {
    const Chunk& c = t.chunks[i];
    sum_rows_and_columns(row_sums.data() + c.row, parts.data() + i * width,
                         grads + c.row * t.columns, c.rows, t.columns,
                         static_cast<float>(s.grad_scale),
                         static_cast<float>(s.epsilon1));
  });
  std::vector<double> sums(row_sums.begin(), row_sums.end());
  average(row_v, sums.data(), t.matrices * t.rows, t.columns, kept);
  sums.assign(t.all_columns(), 0);
  for (std::size_t i = 0; i < t.chunks.size(); ++i) {
    double* to = sums.data() + t.chunks[i].matrix * t.columns;
    const float* part = parts.data() + i * width;
    for (std::size_t c = 0; c < width; ++c) to[c] += part[c];
  }
  average(column_v, sums.data(), t.matrices * t.columns, t.rows, kept);
}

// v[r, c] = row_v[r] column_v[c] / mean(row_v); its inverse root in factors.
struct InverseRoots {
  std::vector<float> row, column;
};
InverseRoots inverse_roots(const float* row_v, const float* column_v,
                           const Stack& t) {
  InverseRoots out{std::vector<float>(t.all_rows()),
                   std::vector<float>(t.all_columns())};
  for (std::int64_t matrix = 0; matrix < t.matrices; ++matrix) {
    const float* of = row_v + matrix * t.rows;
    const auto mean = static_cast<float>(std::accumulate(of, of + t.rows, 0.0) /
                                         static_cast<double>(t.rows));
    float* to = out.row.data() + matrix * t.rows;
    for (std::int64_t r = 0; r < t.rows; ++r) {
      to[r] = 1.0f / std::sqrt(of[r] / mean);
    }
  }
  for (std::size_t c = 0; c < out.column.size(); ++c) {
    out.column[c] = 1.0f / std::sqrt(column_v[c]);
  }
  return out;
}

}  // namespace

void adafactor_pass(float* values, const float* grads, float* m, float* v,
                    const float* ages, const float* decay_towards,
                    std::int64_t n, const AdafactorStep& s,
                    std::span<const MaskedWrite> writes) {
  if (n == 0) return;
  const double kept = std::pow(static_cast<double>(s.step), s.decay_rate);
  const std::int64_t blocks = (n + kBlock - 1) / kBlock;
  std::vector<double> squares(static_cast<std::size_t>(blocks));
  at::parallel_for(
      0, blocks, kGrain / kBlock, [&](std::int64_t begin, std::int64_t end) {
        for (std::int64_t b = begin; b < end; ++b) {
          const std::int64_t at = b * kBlock;
          const std::int64_t count = std::min(kBlock, n - at);
          squares[static_cast<std::size_t>(b)] =
              ages == nullptr ? second_moment(v + at, grads + at, count,
                                              static_cast<float>(s.grad_scale),
                                              static_cast<float>(1 - kept),
                                              static_cast<float>(kept),
                                              static_cast<float>(s.epsilon1))
                              : second_moment_by_age(v + at, grads + at,
                                                     ages + at, count, s);
        }
      });
  const Factors f =
      factors(s, scale_of(values, n, s),
              std::accumulate(squares.begin(), squares.end(), 0.0), n);
  update_and_write(
      values, n, writes, [&](std::int64_t begin, std::int64_t end) {
        apply_range(values + begin, grads + begin,
                    m == nullptr ? nullptr : m + begin, v + begin,
                    decay_towards == nullptr ? nullptr : decay_towards + begin,
                    end - begin, f);
      });
}

void adafactor_pass_factored(float* values, const float* grads, float* m,
                             float* row_v, float* column_v,
                             const float* decay_towards, std::int64_t matrices,
                             std::int64_t rows, std::int64_t columns,
                             const AdafactorStep& s) {
  const std::int64_t n = matrices * rows * columns;
  if (n == 0) return;
  const Stack t{matrices, rows, columns, cut(matrices, rows, columns)};
  factored_moments(row_v, column_v, grads, t, s);
  const InverseRoots roots = inverse_roots(row_v, column_v, t);
  std::vector<double> squares(t.chunks.size());
  for_each_chunk(t.chunks, [&](std::size_t i) {
    const Chunk& c = t.chunks[i];
    squares[i] = sum_updates(grads + c.row * columns, roots.row.data() + c.row,
                             roots.column.data() + c.matrix * columns, c.rows,
                             columns, static_cast<float>(s.grad_scale));
  });
  const Factors f =
      factors(s, scale_of(values, n, s),
              std::accumulate(squares.begin(), squares.end(), 0.0), n);
  for_each_chunk(t.chunks, [&](std::size_t i) {
    const Chunk& c = t.chunks[i];
    const std::int64_t at = c.row * columns;
    apply_rows(values + at, grads + at, m == nullptr ? nullptr : m + at,
               roots.row.data() + c.row,
               roots.column.data() + c.matrix * columns,
               decay_towards == nullptr ? nullptr : decay_towards + at, c.rows,
               columns, f);
  });
}

}  // namespace thinwire
