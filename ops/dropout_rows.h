// dropout()'s numbers for the rows of one tensor, for kernels that do something
// else in the same pass. Internal to ops/.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

#include "ops/dropout_draw.h"

namespace thinwire {

// out = in where `row` is kept, times draw.scale, else 0; d numbers. out may be
// in.
void drop_row(float* out, const float* in, std::int64_t d, const RowDraw& row,
              const DropoutDraw& draw);

class DropoutRows {
 public:
  // Of x fp32 [T, d], row t of layout. Throws UsageError unless 0 <= p < 1.
  DropoutRows(double p, const DropoutKey& key, const Layout& layout,
              const at::Tensor& x);

  bool any() const { return draw_.threshold > 0; }
  float scale() const { return draw_.scale; }

  // Row t: out = dropout(in), or out = added + dropout(in). d numbers; out may
  // be in.
  void drop(float* out, const float* in, std::int64_t t, std::int64_t d) const;
  void drop_add(float* out, const float* added, const float* in, std::int64_t t,
                std::int64_t d) const;

 private:
  DropoutDraw draw_;
  at::Tensor samples_, positions_;  // the layout's
};

}  // namespace thinwire
