#define TORCH_ASSERT_ONLY_METHOD_OPERATORS
#include "ops/vocabulary_pass.h"

#include <ATen/Parallel.h>
#include <ATen/native/CPUBlas.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "base/error.h"
#include "ops/micro_kernel.h"
#include "ops/transpose.h"
#include "ops/vector_exp.h"
#include "ops/vocabulary_kernels.h"

namespace thinwire {
namespace {

constexpr std::int64_t kColumns = 64;  // of one call of the micro-kernel
constexpr std::int64_t kSliceTiles = 8;
constexpr float kNever = -std::numeric_limits<float>::infinity();

// C [m, n] (+)= A [m, k] B [k, n] by columns; pairs: B holds rows in pairs.
template <class T>
void multiply(float* c, const T* a, const T* b, std::int64_t m, std::int64_t n,
              std::int64_t k, std::int64_t row_a, std::int64_t row_b,
              std::int64_t row_c, bool add) {
  constexpr bool kPairs = !std::is_same_v<T, float>;
  if constexpr (!kPairs) {
    if (!has_micro_kernel(at::kFloat)) {
      return multiply_plainly(c, a, b, m, n, k, row_a, row_b, row_c, add);
    }
  }
  for (std::int64_t j = 0; j < n; j += kColumns) {
    at::native::cpublas::brgemm(m, std::min(kColumns, n - j), k, row_a, row_b,
                                row_c, add, a, b + j * (kPairs ? 2 : 1), c + j,
                                kPairs);
  }
}

// One block of rows, and how it meets W.
struct Block {
  at::Tensor x;       // fp32 or bf16 [lanes, d], 0 behind the last row
  at::Tensor packed;  // x^T [d, lanes]; bf16: pairs of features
  const at::Tensor& w;
  const std::int64_t* labels;
  std::int64_t n, lanes, d, vocabulary;
  std::int64_t tile;  // rows of W at once
  bool bf16;
  VocabularyWants wants;

  std::int64_t tiles() const { return (vocabulary + tile - 1) / tile; }
  std::int64_t slices() const {
    return (tiles() + kSliceTiles - 1) / kSliceTiles;
  }
};

// What is known of the rows after some of the vocabulary. others: the sum of
// exp(logit - max) over all but the label; acc: the sum of such terms times
// rows of W.
struct Partial {
  std::vector<float> max, others, label_logit;
  std::vector<std::int32_t> best;
  at::Tensor acc;  // fp32 [lanes, d]

  explicit Partial(const Block& b)
      : max(static_cast<std::size_t>(b.lanes), kNever),
        others(max.size()),
        label_logit(max.size(), kNever),
        best(max.size(), 0) {
    if (b.wants.hidden_grad) {
      acc = at::empty({b.lanes, b.d}, at::TensorOptions().dtype(at::kFloat));
    }
  }
};

struct Scratch {
  std::vector<float> logits, turned, factor, before;
  std::vector<at::BFloat16> rounded, pairs;
};

void scale_row(float* row, float factor, std::int64_t d) {
  for (std::int64_t j = 0; j < d; ++j) row[j] *= factor;
}

// Brings others and acc from the maxima `before` to those in p.
void decay_partial(const Block& b, Partial& p, Scratch& s, bool acc_is_empty) {
  decay(s.factor.data(), s.before.data(), p.max.data(), b.lanes);
  for (std::int64_t r = 0; r < b.lanes; ++r) {
    const float factor = s.factor[static_cast<std::size_t>(r)];
    if (factor == 1.0f) continue;
    p.others[static_cast<std::size_t>(r)] *= factor;
    if (acc_is_empty || !b.wants.hidden_grad) continue;
    scale_row(p.acc.mutable_data_ptr<float>() + r * b.d, factor, b.d);
  }
}

// Takes the labels' logits out of the tile: what is left are the others.
void take_labels(const Block& b, Partial& p, float* logits, std::int64_t first,
                 std::int64_t count) {
  for (std::int64_t r = 0; r < b.n; ++r) {
    const std::int64_t v = b.labels[r] - first;
    if (v < 0 || v >= count) continue;
    float& logit = logits[v * b.lanes + r];
    p.label_logit[static_cast<std::size_t>(r)] = logit;
    logit = kNever;
  }
}

// acc (+)= e^T W, with e [count, lanes].
void add_products(const Block& b, Partial& p, Scratch& s, const float* e,
                  std::int64_t first, std::int64_t count, bool add) {
  auto* acc = p.acc.mutable_data_ptr<float>();
  s.turned.resize(static_cast<std::size_t>(b.lanes * b.tile));
  transpose(count, b.lanes, e, b.lanes, s.turned.data(), count);
  if (!b.bf16) {
    multiply(acc, s.turned.data(), b.w.const_data_ptr<float>() + first * b.d,
             b.lanes, b.d, count, count, b.d, b.d, add);
    return;
  }
  s.rounded.resize(s.turned.size());
  s.pairs.resize(static_cast<std::size_t>(b.tile * b.d));
  round_to_bf16(reinterpret_cast<std::uint16_t*>(s.rounded.data()),
                s.turned.data(), b.lanes * count);
  interleave_rows(
      reinterpret_cast<std::uint32_t*>(s.pairs.data()),
      static_cast<const std::uint16_t*>(b.w.const_data_ptr()) + first * b.d,
      count, b.d);
  multiply(acc, s.rounded.data(), s.pairs.data(), b.lanes, b.d, count, count,
           b.d, b.d, add);
}

void find_logits(const Block& b, float* logits, std::int64_t first,
                 std::int64_t count) {
  if (b.bf16) {
    multiply(logits, b.w.const_data_ptr<at::BFloat16>() + first * b.d,
             b.packed.const_data_ptr<at::BFloat16>(), count, b.lanes, b.d, b.d,
             b.lanes, b.lanes, false);
  } else {
    multiply(logits, b.w.const_data_ptr<float>() + first * b.d,
             b.packed.const_data_ptr<float>(), count, b.lanes, b.d, b.d,
             b.lanes, b.lanes, false);
  }
}

void run_tile(const Block& b, Partial& p, Scratch& s, float* kept,
              std::int64_t first, bool first_of_slice) {
  const std::int64_t count = std::min(b.tile, b.vocabulary - first);
  const auto cells = static_cast<std::size_t>(count * b.lanes);
  if (s.logits.size() < cells) s.logits.resize(cells);
  float* logits = s.logits.data();
  find_logits(b, logits, first, count);

  s.before = p.max;
  if (b.wants.best) {
    raise_max_and_best(p.max.data(), p.best.data(), logits, count, b.lanes,
                       static_cast<std::int32_t>(first));
  } else {
    raise_max(p.max.data(), logits, count, b.lanes);
  }
  take_labels(b, p, logits, first, count);
  if (kept != nullptr) std::copy_n(logits, cells, kept + first * b.lanes);
  decay_partial(b, p, s, first_of_slice);
  exponentiate(logits, p.others.data(), p.max.data(), count, b.lanes);
  if (b.wants.hidden_grad) {
    add_products(b, p, s, logits, first, count, !first_of_slice);
  }
}

void run_slice(const Block& b, Partial& p, Scratch& s, float* kept,
               std::int64_t slice) {
  s.factor.resize(p.max.size());
  const std::int64_t end = std::min(b.tiles(), (slice + 1) * kSliceTiles);
  for (std::int64_t t = slice * kSliceTiles; t < end; ++t) {
    run_tile(b, p, s, kept, t * b.tile, t == slice * kSliceTiles);
  }
}

// total += p; slices come in their order.
void merge(const Block& b, Partial& total, Partial& p, Scratch& s) {
  std::vector<float> high = total.max;
  for (std::size_t r = 0; r < high.size(); ++r) {
    if (p.max[r] > high[r]) {
      high[r] = p.max[r];
      total.best[r] = p.best[r];
    }
    if (p.label_logit[r] != kNever) total.label_logit[r] = p.label_logit[r];
  }
  s.factor.resize(high.size());
  for (Partial* side : {&total, &p}) {
    s.before = side->max;
    side->max = high;
    decay_partial(b, *side, s, false);
  }
  for (std::size_t r = 0; r < high.size(); ++r) total.others[r] += p.others[r];
  if (b.wants.hidden_grad) total.acc.add_(p.acc);
}

// All of the vocabulary, as many slices at a time as there are threads.
Partial run_slices(const Block& b, float* kept) {
  const std::int64_t slices = b.slices();
  const std::int64_t wave =
      std::min<std::int64_t>(slices, std::max(1, at::get_num_threads()));
  std::vector<Scratch> scratch(static_cast<std::size_t>(wave));
  std::vector<Partial> partials;
  for (std::int64_t begin = 0; begin < slices; begin += wave) {
    const std::int64_t count = std::min(wave, slices - begin);
    std::vector<Partial> now;
    for (std::int64_t i = 0; i < count; ++i) now.emplace_back(b);
    at::parallel_for(0, count, 1, [&](std::int64_t from, std::int64_t to) {
      for (std::int64_t i = from; i < to; ++i) {
        const auto at = static_cast<std::size_t>(i);
        run_slice(b, now[at], scratch[at], kept, begin + i);
      }
      if (b.bf16) at::native::cpublas::brgemm_release();
    });
    for (Partial& p : now) {
      if (partials.empty()) {
        partials.push_back(std::move(p));
      } else {
        merge(b, partials.front(), p, scratch.front());
      }
    }
  }
  return std::move(partials.front());
}

at::Tensor pack(const at::Tensor& x, std::int64_t lanes) {
  const bool bf16 = x.scalar_type() == at::kBFloat16;
  at::Tensor out = at::empty({x.size(1), lanes}, x.options());
  const std::int64_t columns = bf16 ? x.size(1) / 2 : x.size(1);
  transpose(lanes, columns, static_cast<const float*>(x.const_data_ptr()),
            columns, static_cast<float*>(out.mutable_data_ptr()), lanes);
  return out;
}

// type: the matrix's own, to which x is rounded whatever multiplies them.
Block make_block(const at::Tensor& x, const at::Tensor& w, at::ScalarType type,
                 const std::int64_t* labels, const VocabularyWants& wants) {
  const std::int64_t n = x.size(0), d = x.size(1);
  const std::int64_t lanes =
      (n + kVectorLanes - 1) / kVectorLanes * kVectorLanes;
  const bool bf16 = w.scalar_type() == at::kBFloat16;
  at::Tensor rows = at::zeros({lanes, d}, w.options());
  rows.narrow(0, 0, n).copy_(x.to(type));
  at::Tensor packed = pack(rows, lanes);
  // 512 KiB of W: half of a second-level cache of 1 MiB.
  constexpr std::int64_t kTileNumbers = 131072;
  const std::int64_t tile =
      std::clamp<std::int64_t>(kTileNumbers / d / 16 * 16, 64, 512);
  return {std::move(rows),
          std::move(packed),
          w,
          labels,
          n,
          lanes,
          d,
          w.size(0),
          tile,
          bf16,
          wants};
}

// The micro-kernel takes bf16 in pairs; what has no kernel goes in fp32.
at::Tensor multipliable(const at::Tensor& w) {
  if (w.scalar_type() == at::kFloat) return w;
  const bool pairs = w.size(0) % 2 == 0 && w.size(1) % 2 == 0;
  return pairs && has_micro_kernel(w.scalar_type()) ? w : w.to(at::kFloat);
}

// acc / sum - (others / sum) w[label], per row, and smoothed
// e (w[label] - mean w) more.
void finish_grad(const Block& b, const Partial& p, at::Tensor& out) {
  const auto* acc = p.acc.const_data_ptr<float>();
  auto* to = out.mutable_data_ptr<float>();
  std::vector<float> row(static_cast<std::size_t>(b.d));
  for (std::int64_t r = 0; r < b.n; ++r, to += b.d) {
    const auto at = static_cast<std::size_t>(r);
    const float label = std::exp(p.label_logit[at] - p.max[at]);
    const float scale = 1.0f / (p.others[at] + label);
    const float pull = p.others[at] * scale;
    const at::Tensor own = b.w.select(0, b.labels[r]).to(at::kFloat);
    const auto* w = own.const_data_ptr<float>();
    for (std::int64_t j = 0; j < b.d; ++j) {
      to[j] = acc[r * b.d + j] * scale - pull * w[j];
    }
    if (b.wants.smoothing == 0) continue;
    const auto smoothing = static_cast<float>(b.wants.smoothing);
    const auto* mean = b.wants.mean_row.const_data_ptr<float>();
    for (std::int64_t j = 0; j < b.d; ++j) {
      to[j] += smoothing * (w[j] - mean[j]);
    }
  }
}

// The label's logit less the mean of all, of row r.
double above_mean(const Block& b, const Partial& p, std::int64_t r) {
  const at::Tensor x = b.x.select(0, r).to(at::kDouble);
  return p.label_logit[static_cast<std::size_t>(r)] -
         x.dot(b.wants.mean_row.to(at::kDouble)).item<double>();
}

// The kept logits, in place, to softmax - onehot.
void finish_probabilities(const Block& b, const Partial& p,
                          at::Tensor& logits) {
  std::vector<float> scale(p.max.size());
  auto* cells = logits.mutable_data_ptr<float>();
  for (std::size_t r = 0; r < static_cast<std::size_t>(b.n); ++r) {
    scale[r] = 1.0f / (p.others[r] + std::exp(p.label_logit[r] - p.max[r]));
  }
  at::parallel_for(0, b.tiles(), 1, [&](std::int64_t begin, std::int64_t end) {
    const std::int64_t from = begin * b.tile;
    const std::int64_t to = std::min(b.vocabulary, end * b.tile);
    normalise(cells + from * b.lanes, p.max.data(), scale.data(), to - from,
              b.lanes);
  });
  for (std::int64_t r = 0; r < b.n; ++r) {
    const auto at = static_cast<std::size_t>(r);
    cells[b.labels[r] * b.lanes + r] = -p.others[at] * scale[at];
  }
  if (b.wants.smoothing == 0) return;
  logits.narrow(1, 0, b.n).sub_(b.wants.smoothing /
                                static_cast<double>(b.vocabulary));
  for (std::int64_t r = 0; r < b.n; ++r) {
    cells[b.labels[r] * b.lanes + r] += static_cast<float>(b.wants.smoothing);
  }
}

}  // namespace

VocabularyResult vocabulary_pass(const at::Tensor& x, const at::Tensor& weight,
                                 const std::int64_t* labels,
                                 const VocabularyWants& wants) {
  THINWIRE_ASSERT(x.scalar_type() == at::kFloat && x.size(0) > 0 &&
                      x.size(1) > 0 && x.size(1) == weight.size(1) &&
                      weight.is_contiguous(),
                  "{} rows of {}, a matrix [{}, {}]", x.size(0), x.size(1),
                  weight.size(0), weight.size(1));
  const at::Tensor w = multipliable(weight);
  const Block b = make_block(x, w, weight.scalar_type(), labels, wants);
  VocabularyResult out;
  if (wants.probabilities) {
    out.logit_grad = at::empty({b.vocabulary, b.lanes}, x.options());
  }
  const Partial p = run_slices(b, wants.probabilities
                                      ? out.logit_grad.mutable_data_ptr<float>()
                                      : nullptr);
  for (std::size_t r = 0; r < static_cast<std::size_t>(b.n); ++r) {
    const double label = static_cast<double>(p.label_logit[r]) - p.max[r];
    double loss = std::log(p.others[r] + std::exp(label)) - label;
    if (wants.smoothing != 0) {
      loss += wants.smoothing * above_mean(b, p, static_cast<std::int64_t>(r));
    }
    out.loss.push_back(loss);
    if (wants.best) out.best.push_back(p.best[r]);
  }
  if (wants.hidden_grad) {
    out.hidden_grad = at::empty({b.n, b.d}, x.options());
    finish_grad(b, p, out.hidden_grad);
  }
  if (wants.probabilities) finish_probabilities(b, p, out.logit_grad);
  return out;
}

at::Tensor mean_row(const at::Tensor& w) {
  constexpr std::int64_t kRows = 1024;  // in fp32 at once
  at::Tensor sum =
      at::zeros({w.size(1)}, at::TensorOptions().dtype(at::kDouble));
  for (std::int64_t v = 0; v < w.size(0); v += kRows) {
    const std::int64_t count = std::min(kRows, w.size(0) - v);
    sum.add_(w.narrow(0, v, count).to(at::kFloat).sum(0));
  }
  return sum.div_(static_cast<double>(w.size(0))).to(at::kFloat);
}

void add_weight_grad(at::Tensor& grad, const at::Tensor& logit_grad,
                     const at::Tensor& x, bool add) {
  constexpr std::int64_t kTile = 256;
  const std::int64_t vocabulary = grad.size(0), d = grad.size(1);
  const std::int64_t lanes = logit_grad.size(1);
  THINWIRE_ASSERT(
      x.is_contiguous() && grad.is_contiguous() && x.size(0) <= lanes,
      "{} rows, {} lanes", x.size(0), lanes);
  at::Tensor padded = x;  // one kernel for many counts of rows
  if (x.size(0) < lanes) {
    padded = at::zeros({lanes, d}, x.options());
    padded.narrow(0, 0, x.size(0)).copy_(x);
  }
  const auto* p = logit_grad.const_data_ptr<float>();
  const auto* rows = padded.const_data_ptr<float>();
  auto* to = grad.mutable_data_ptr<float>();
  at::parallel_for(0, (vocabulary + kTile - 1) / kTile, 1,
                   [&](std::int64_t begin, std::int64_t end) {
                     for (std::int64_t v = begin * kTile;
                          v < std::min(vocabulary, end * kTile); v += kTile) {
                       multiply(to + v * d, p + v * lanes, rows,
                                std::min(kTile, vocabulary - v), d, lanes,
                                lanes, d, d, add);
                     }
                   });
}

}  // namespace thinwire
