#include "dist/adafactor.h"

#include <ATen/ops/zeros.h>

#include <algorithm>
#include <string>

namespace thinwire {
namespace {

bool keeps_state(StatePolicy policy) {
  return policy == StatePolicy::kCarry || policy == StatePolicy::kDrop;
}

float* data(at::Tensor& t) { return t.mutable_data_ptr<float>(); }

}  // namespace

AdafactorMoments::AdafactorMoments(const Delta& delta) {
  std::int64_t square = 0, row = 0, column = 0;
  for (const DeltaEntry& e : delta.entries()) {
    Place p{.offset = e.offset,
            .count = e.count,
            .square = square,
            .row = row,
            .column = column};
    const std::size_t dims = e.shape.size();
    p.factored = e.kind == EntryKind::kDense && dims >= 2 && e.count > 0;
    if (p.factored) {
      p.rows = e.shape[dims - 2];
      p.columns = e.shape[dims - 1];
      p.matrices = e.count / (p.rows * p.columns);
      row += p.matrices * p.rows;
      column += p.matrices * p.columns;
    } else {
      square += e.count;
    }
    places_.push_back(p);
  }
  square_ = at::zeros({square}, at::kFloat);
  row_ = at::zeros({row}, at::kFloat);
  column_ = at::zeros({column}, at::kFloat);
}

void AdafactorMoments::step(Delta& delta, std::size_t e, float* m,
                            const float* ages, const float* initial,
                            const AdafactorStep& s,
                            std::span<const MaskedWrite> writes) {
  const Place& p = places_[e];
  const std::int64_t at = p.offset;
  const auto after = [at](auto* vector) {
    return vector == nullptr ? nullptr : vector + at;
  };
  float* values = data(delta.values()) + at;
  const float* grads = delta.grads().const_data_ptr<float>() + at;
  if (p.factored) {
    adafactor_pass_factored(values, grads, after(m), data(row_) + p.row,
                            data(column_) + p.column, after(initial),
                            p.matrices, p.rows, p.columns, s);
  } else {
    adafactor_pass(values, grads, after(m), data(square_) + p.square,
                   after(ages), after(initial), p.count, s, writes);
  }
}

NamedTensors AdafactorMoments::tensors() const {
  return {{"square", square_}, {"row", row_}, {"column", column_}};
}

at::Tensor AdafactorMoments::spread(std::int64_t size) const {
  at::Tensor flat = at::zeros({size}, at::kFloat);
  for (const Place& p : places_) {
    if (p.factored) continue;
    std::copy_n(square_.const_data_ptr<float>() + p.square, p.count,
                data(flat) + p.offset);
  }
  return flat;
}

std::vector<bool> AdafactorMoments::relayout(const Delta& old,
                                             const Relayout& to,
                                             StatePolicy policy) {
  const at::Tensor squares = map_state(spread(old.size()), old, to, policy);
  const auto* source = to.source.const_data_ptr<std::int64_t>();
  AdafactorMoments next(to.delta);
  std::vector<bool> came;
  for (const Place& p : next.places_) {
    // A masked entry may begin with numbers that are new; a dense one is there
    // from end to end or not at all.
    const std::int64_t* begin = source + p.offset;
    const std::int64_t* end = begin + p.count;
    const std::int64_t* first =
        std::find_if(begin, end, [](std::int64_t at) { return at >= 0; });
    const auto from = std::ranges::find_if(places_, [&](const Place& o) {
      return first != end && *first >= o.offset && *first < o.offset + o.count;
    });
    came.push_back(keeps_state(policy) && from != places_.end() &&
                   from->factored == p.factored);
    if (!came.back()) continue;
    if (p.factored) {
      std::copy_n(row_.const_data_ptr<float>() + from->row, p.matrices * p.rows,
                  data(next.row_) + p.row);
      std::copy_n(column_.const_data_ptr<float>() + from->column,
                  p.matrices * p.columns, data(next.column_) + p.column);
    } else {
      std::copy_n(squares.const_data_ptr<float>() + p.offset, p.count,
                  data(next.square_) + p.square);
    }
  }
  *this = std::move(next);
  return came;
}

void AdafactorMoments::forget(const bool* keep) {
  for (const Place& p : places_) {
    if (p.factored) continue;
    float* v = data(square_) + p.square;
    for (std::int64_t i = 0; i < p.count; ++i) {
      if (!keep[p.offset + i]) v[i] = 0;
    }
  }
}

}  // namespace thinwire
