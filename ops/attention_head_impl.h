// A head forward and backward, from the parts in ops/attention_tile.h and
// ops/attention_rows.h; instantiated once per instruction set.
#pragma once

#include <cstdint>

#include "ops/attention_head.h"
#include "ops/attention_rows.h"
#include "ops/attention_tile.h"

namespace thinwire::tile {

// The scores of a strip of queries against all keys stay in cache.
constexpr std::int64_t kStripFloats = 24 * 1024;
constexpr std::int64_t kStripRowsMin = 12, kStripRowsMax = 96;

// Sizes, and where things lie in the scratch.
template <class S>
class Plan {
 public:
  Plan(const HeadInputs& in, float* scratch)
      : columns(round_up(in.columns(), S::kW)),
        // One vector more, which softmax writes, and rows that begin in
        // different cache sets.
        row(columns + S::kW),
        wide(round_up(in.width, S::kW)),
        next_(scratch) {
    const std::int64_t fit = kStripFloats / row / kStripRowsMin * kStripRowsMin;
    const std::int64_t most =
        smaller(larger(fit, kStripRowsMin), kStripRowsMax);
    const std::int64_t strips = (in.queries + most - 1) / most;
    rows = strips == 0 ? 0 : (in.queries + strips - 1) / strips;
  }

  float* take(std::int64_t floats) {
    float* out = next_ == nullptr ? nullptr : next_ + used_;
    used_ += round_up(floats, 16);
    return out;
  }
  Panels<S> panels(std::int64_t rows_of, std::int64_t columns_of) {
    Panels<S> out;
    out.rows = rows_of;
    out.columns = round_up(columns_of, S::kW);
    out.data = take(out.rows * out.columns);
    return out;
  }
  std::int32_t* numbers(const HeadInputs& in) {
    return reinterpret_cast<std::int32_t*>(
        take(round_up(in.columns() + S::kW, kDrawn)));
  }
  std::int64_t used() const { return used_; }

  std::int64_t rows;     // of a strip
  std::int64_t columns;  // of scores
  std::int64_t row;      // floats from one row of scores to the next
  std::int64_t wide;     // D in whole vectors

 private:
  float* next_;
  std::int64_t used_ = 0;
};

template <class S>
struct Forward {
  Forward(const HeadInputs& in, float* scratch)
      : plan(in, scratch),
        keys(plan.panels(in.width, plan.columns)),
        values(plan.panels(in.columns(), in.width)),
        scores(plan.take(plan.rows * plan.row)),
        out(plan.take(plan.rows * plan.wide)),
        drawn(plan.numbers(in)) {}

  Plan<S> plan;
  Panels<S> keys, values;  // keys: transposed
  float *scores, *out;
  std::int32_t* drawn;
};

template <class S>
struct Backward {
  Backward(const HeadInputs& in, float* scratch)
      : plan(in, scratch),
        keys_t(plan.panels(in.width, plan.columns)),
        values_t(plan.panels(in.width, plan.columns)),
        keys(plan.panels(in.columns(), in.width)),
        queries(plan.panels(plan.rows, in.width)),
        grad(plan.panels(plan.rows, in.width)),
        scores(plan.take(plan.rows * plan.row)),
        d_scores(plan.take(plan.rows * plan.row)),
        d_queries(plan.take(plan.rows * plan.wide)),
        d_keys(plan.take(in.columns() * plan.wide)),
        d_values(plan.take(in.columns() * plan.wide)),
        drawn(plan.numbers(in)) {}

  Plan<S> plan;
  Panels<S> keys_t, values_t, keys, queries, grad;
  float *scores, *d_scores, *d_queries, *d_keys, *d_values;
  std::int32_t* drawn;
};

template <class S>
std::int64_t scratch_floats(const HeadInputs& sizes, bool backward) {
  return backward ? Backward<S>(sizes, nullptr).plan.used()
                  : Forward<S>(sizes, nullptr).plan.used();
}

template <class S>
void pack_transposed(const HeadInputs& in, const Panels<S>& to,
                     const HeadRows& extra, const HeadRows& rows) {
  pack_columns(to, 0, in.extra, extra.data, extra.row);
  pack_columns(to, in.extra, in.keys, rows.data, rows.row);
  clear_columns(to, in.columns());
}

template <class S>
void pack(const HeadInputs& in, const Panels<S>& to, const HeadRows& extra,
          const HeadRows& rows) {
  pack_rows(to, 0, in.extra, extra.data, extra.row, in.width);
  pack_rows(to, in.extra, in.keys, rows.data, rows.row, in.width);
}

// to = from * factor, `rows` rows.
inline void write(const HeadGradient& to, std::int64_t first, std::int64_t rows,
                  const float* from, std::int64_t row_from, std::int64_t width,
                  float factor) {
  for (std::int64_t i = 0; i < rows; ++i) {
    float* __restrict out = to.data + (first + i) * to.row;
    const float* __restrict in = from + i * row_from;
    for (std::int64_t j = 0; j < width; ++j) out[j] = in[j] * factor;
  }
}

inline void add(const HeadGradient& to, std::int64_t first, std::int64_t rows,
                const float* from, std::int64_t row_from, std::int64_t width,
                float factor) {
  for (std::int64_t i = 0; i < rows; ++i) {
    float* __restrict out = to.data + (first + i) * to.row;
    const float* __restrict in = from + i * row_from;
    for (std::int64_t j = 0; j < width; ++j) out[j] += in[j] * factor;
  }
}

// The most keys that one of these queries sees.
inline std::int64_t most_seen(const HeadInputs& in, std::int64_t first,
                              std::int64_t end) {
  std::int64_t most = 0;
  for (std::int64_t i = first; i < end; ++i) most = larger(most, in.seen(i));
  return most;
}

inline const float* bias_row(const HeadInputs& in, std::int64_t i) {
  return in.bias.data == nullptr ? nullptr : in.bias.data + i * in.bias.row;
}

template <class S>
void forward(const HeadInputs& in, const HeadOutputs& out, float* scratch) {
  const Forward<S> at(in, scratch);
  const std::int64_t row = at.plan.row;
  const bool drops = in.dropout.draw != nullptr;
  pack_transposed(in, at.keys, in.extra_k, in.k);
  pack(in, at.values, in.extra_v, in.v);
  for (std::int64_t first = 0; first < in.queries; first += at.plan.rows) {
    const std::int64_t rows = smaller(at.plan.rows, in.queries - first);
    const std::int64_t seen = most_seen(in, first, first + rows);
    const std::int64_t columns = round_up(seen, S::kW);
    multiply(rows, in.width, {in.q.data + first * in.q.row, in.q.row, 1},
             at.keys, columns, at.scores, row, false);
    float inverse[kStripRowsMax];
    for (std::int64_t r = 0; r < rows; ++r) {
      const std::int64_t i = first + r, n = in.seen(i);
      float* scores = at.scores + r * row;
      if (drops) draw_row(in.dropout, i, n, at.drawn);
      const float top =
          finish_scores<S>(scores, n, in.extra, bias_row(in, i), in.scale);
      const float sum =
          n == 0 ? (clear<S>(scores, 0, columns), 1.0f)  // sees nothing
                 : exponentials<S>(scores, n, columns, top,
                                   drops ? at.drawn : nullptr,
                                   in.dropout.threshold);
      inverse[r] = in.dropout.scale / sum;
      if (out.log_sum_exp != nullptr) {
        out.log_sum_exp[i] = n == 0 ? 0 : top + __builtin_logf(sum);
      }
    }
    multiply(rows, seen, {at.scores, row, 1}, at.values, at.plan.wide, at.out,
             at.plan.wide, false);
    for (std::int64_t r = 0; r < rows; ++r) {
      write(out.out, first + r, 1, at.out + r * at.plan.wide, 0, in.width,
            inverse[r]);
    }
  }
}

template <class S>
struct Strip {
  std::int64_t first, rows, seen, columns;
};

// Scores become weights, gradients of weights become those of scores.
template <class S>
void backward_rows(const HeadInputs& in, const HeadGradients& out,
                   const Backward<S>& at, const Strip<S>& strip) {
  const bool drops = in.dropout.draw != nullptr;
  for (std::int64_t r = 0; r < strip.rows; ++r) {
    const std::int64_t i = strip.first + r, n = in.seen(i);
    float* scores = at.scores + r * at.plan.row;
    float* d_scores = at.d_scores + r * at.plan.row;
    if (drops) draw_row(in.dropout, i, n, at.drawn);
    finish_scores<S>(scores, n, in.extra, bias_row(in, i), in.scale);
    softmax_backward<S>(scores, d_scores, n, strip.columns, out.log_sum_exp[i],
                        drops ? at.drawn : nullptr, in.dropout.threshold,
                        in.dropout.scale);
    if (out.bias.data != nullptr) {
      add(out.bias, i, 1, d_scores + in.extra, 0, n - in.extra, 1);
    }
  }
}

template <class S>
void write_keys(const HeadInputs& in, const Backward<S>& at, const float* from,
                const HeadGradient& extra, const HeadGradient& keys,
                float factor) {
  const std::int64_t wide = at.plan.wide;
  if (extra.data != nullptr) {
    add(extra, 0, in.extra, from, wide, in.width, factor);
  }
  if (keys.data != nullptr) {
    write(keys, 0, in.keys, from + in.extra * wide, wide, in.width, factor);
  }
}

template <class S>
void backward(const HeadInputs& in, const HeadGradients& out, float* scratch) {
  const Backward<S> at(in, scratch);
  const std::int64_t row = at.plan.row, wide = at.plan.wide;
  const bool needs_keys = out.k.data != nullptr || out.extra_k.data != nullptr;
  const bool needs_values =
      out.v.data != nullptr || out.extra_v.data != nullptr;
  pack_transposed(in, at.keys_t, in.extra_k, in.k);
  pack_transposed(in, at.values_t, in.extra_v, in.v);
  if (out.q.data != nullptr) pack(in, at.keys, in.extra_k, in.k);
  if (needs_keys) clear<S>(at.d_keys, 0, in.columns() * wide);
  if (needs_values) clear<S>(at.d_values, 0, in.columns() * wide);
  for (std::int64_t first = 0; first < in.queries; first += at.plan.rows) {
    Strip<S> s{first, smaller(at.plan.rows, in.queries - first), 0, 0};
    s.seen = most_seen(in, first, first + s.rows);
    s.columns = round_up(s.seen, S::kW);
    const float* q = in.q.data + first * in.q.row;
    const float* grad = out.grad.data + first * out.grad.row;
    multiply(s.rows, in.width, {q, in.q.row, 1}, at.keys_t, s.columns,
             at.scores, row, false);
    multiply(s.rows, in.width, {grad, out.grad.row, 1}, at.values_t, s.columns,
             at.d_scores, row, false);
    backward_rows(in, out, at, s);
    if (needs_values) {
      pack_rows(at.grad, 0, s.rows, grad, out.grad.row, in.width);
      multiply(s.seen, s.rows, {at.scores, 1, row}, at.grad, wide, at.d_values,
               wide, true);
    }
    if (needs_keys) {
      pack_rows(at.queries, 0, s.rows, q, in.q.row, in.width);
      multiply(s.seen, s.rows, {at.d_scores, 1, row}, at.queries, wide,
               at.d_keys, wide, true);
    }
    if (out.q.data != nullptr) {
      multiply(s.rows, s.seen, {at.d_scores, row, 1}, at.keys, wide,
               at.d_queries, wide, false);
      write(out.q, first, s.rows, at.d_queries, wide, in.width, in.scale);
    }
  }
  if (needs_values) {
    write_keys(in, at, at.d_values, out.extra_v, out.v, 1);
  }
  if (needs_keys) {
    write_keys(in, at, at.d_keys, out.extra_k, out.k, in.scale);
  }
}

template <class S>
constexpr HeadKernels kernels() {
  return {&scratch_floats<S>, &forward<S>, &backward<S>};
}

}  // namespace thinwire::tile
