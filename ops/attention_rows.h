// Softmax of one row of scores, forward and backward, dropout included, on
// vectors of one instruction set (ops/attention_tile.h says how). A row holds
// room for one vector more than its columns.
#pragma once

#include <cstdint>

#include "ops/attention_head.h"
#include "ops/attention_tile.h"

namespace thinwire::tile {

constexpr float kNothing = -__builtin_inff();

// e^x for x <= 0, within 1.5 units in the last place; 0 below -87.3.
template <class S>
typename S::V exp(typename S::V x) {
  using V = typename S::V;
  using I = typename S::I;
  constexpr float kLowest = -87.33f, kLog2E = 1.44269504f;
  // Adding it leaves the nearest integer in the lower bits of the sum.
  constexpr float kRounder = 0x1.8p23f;
  constexpr float kLn2High = 0x1.62e4p-1f, kLn2Low = 1.42860677e-6f;
  const V clamped = x < kLowest ? S::all(kLowest) : x;
  const V shifted = S::fma(clamped, S::all(kLog2E), S::all(kRounder));
  const V n = shifted - kRounder;
  V r = S::fma(n, S::all(-kLn2High), clamped);
  r = S::fma(n, S::all(-kLn2Low), r);
  // Cephes' expf.
  V p = S::fma(S::all(1.9875691500e-4f), r, S::all(1.3981999507e-3f));
  p = S::fma(p, r, S::all(8.3334519073e-3f));
  p = S::fma(p, r, S::all(4.1665795894e-2f));
  p = S::fma(p, r, S::all(1.6666665459e-1f));
  p = S::fma(p, r, S::all(5.0000001201e-1f));
  p = S::fma(p, r * r, r) + 1.0f;
  const I power = (reinterpret_cast<I>(shifted) << 23) + (127 << 23);
  p = p * reinterpret_cast<V>(power);
  return x < kLowest ? V{} : p;
}

template <class S>
float sum(typename S::V v) {
  float out = 0;
  for (int i = 0; i < S::kW; ++i) out += v[i];
  return out;
}

template <class S>
float largest(typename S::V v) {
  float out = v[0];
  for (int i = 1; i < S::kW; ++i) out = v[i] > out ? v[i] : out;
  return out;
}

// Row i's place in the random numbers: drawn[j] for column j < columns.
// drawn has room for a multiple of kDrawn.
inline void draw_row(const HeadDropout& dropout, std::int64_t i,
                     std::int64_t columns, std::int32_t* drawn) {
  RowDraw row = dropout.numbers;
  row.position = static_cast<std::uint32_t>(dropout.positions[i]);
  for (std::int64_t j = 0; j < columns; j += kDrawn) {
    dropout.draw(drawn + j, row, static_cast<std::uint32_t>(j / 4));
  }
}

template <class S>
typename S::I load_drawn(const std::int32_t* from) {
  typename S::I out;
  __builtin_memcpy(&out, from, sizeof(out));
  return out;
}

template <class S>
void clear(float* row, std::int64_t begin, std::int64_t end) {
  for (std::int64_t j = begin; j < end; j += S::kW) {
    S::store(row + j, typename S::V{});
  }
}

// row = row * scale + bias in its first `seen` columns, -inf in the vector
// behind them; returns the largest (of kNothing and these). bias: of the
// columns from `extra` on, or null.
template <class S>
float finish_scores(float* row, std::int64_t seen, std::int64_t extra,
                    const float* bias, float scale) {
  using V = typename S::V;
  S::store(row + seen, S::all(kNothing));
  const V factor = S::all(scale);
  V top = S::all(kNothing);
  std::int64_t j = 0;
  if (bias != nullptr) {
    float highest = kNothing;
    for (; j < extra; ++j) {
      row[j] *= scale;
      highest = row[j] > highest ? row[j] : highest;
    }
    top = S::all(highest);
    bias -= extra;
    for (; j + S::kW <= seen; j += S::kW) {
      const V x = S::fma(S::load(row + j), factor, S::load(bias + j));
      S::store(row + j, x);
      top = x > top ? x : top;
    }
    if (j < seen) {
      const V x =
          S::fma(S::load(row + j), factor, S::load_part(bias + j, seen - j));
      S::store(row + j, x);
      top = x > top ? x : top;
    }
    return largest<S>(top);
  }
  for (; j < seen; j += S::kW) {
    const V x = S::load(row + j) * factor;
    S::store(row + j, x);
    top = x > top ? x : top;
  }
  return largest<S>(top);
}

// row = e^(row - top), then 0 where dropped (drawn != null) and up to
// `columns`; returns the sum before the dropping.
template <class S>
float exponentials(float* row, std::int64_t seen, std::int64_t columns,
                   float top, const std::int32_t* drawn,
                   std::int32_t threshold) {
  using V = typename S::V;
  const V highest = S::all(top);
  V total{};
  std::int64_t j = 0;
  if (drawn == nullptr) {
    for (; j < seen; j += S::kW) {
      const V e = exp<S>(S::load(row + j) - highest);
      total += e;
      S::store(row + j, e);
    }
  } else {
    for (; j < seen; j += S::kW) {
      const V e = exp<S>(S::load(row + j) - highest);
      total += e;
      S::store(row + j, load_drawn<S>(drawn + j) >= threshold ? e : V{});
    }
  }
  clear<S>(row, j, columns);
  return sum<S>(total);
}

// weights: scores, finished, become the weights w = e^(score - log_sum_exp) as
// they multiplied the values (dropped and scaled); grad: what came through
// them, g, becomes the gradient of the scores, w (m g - sum(w m g)) with m = 0
// where dropped, else the dropout's scale.
template <class S>
void softmax_backward(float* weights, float* grad, std::int64_t seen,
                      std::int64_t columns, float log_sum_exp,
                      const std::int32_t* drawn, std::int32_t threshold,
                      float scale) {
  using V = typename S::V;
  const V shift = S::all(log_sum_exp), factor = S::all(scale);
  V product{};
  std::int64_t j = 0;
  for (; j < seen; j += S::kW) {
    const V w = exp<S>(S::load(weights + j) - shift);
    V g = S::load(grad + j);
    if (drawn != nullptr) {
      g = load_drawn<S>(drawn + j) >= threshold ? g * factor : V{};
      S::store(grad + j, g);
    }
    product = S::fma(w, g, product);
    S::store(weights + j, w);
  }
  const V mean = S::all(sum<S>(product));
  for (j = 0; j < seen; j += S::kW) {
    const V w = S::load(weights + j);
    S::store(grad + j, w * (S::load(grad + j) - mean));
    if (drawn != nullptr) {
      S::store(weights + j,
               load_drawn<S>(drawn + j) >= threshold ? w * factor : V{});
    }
  }
  clear<S>(weights, j, columns);
  clear<S>(grad, j, columns);
}

}  // namespace thinwire::tile
