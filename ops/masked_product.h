// The product of a weight's touched rows (or columns), gathered tile by tile.
// Internal to ops/.
#pragma once

#include "ops/mask_plan.h"
#include "ops/sampled_dots.h"

namespace thinwire {

// What both kernels of a masked gradient work on.
struct MaskedOperands {
  PanelSource x, dy;
  std::int64_t tokens;  // T
  // Of plan.rows: what dy covers, and the weight's row of dy's first column.
  std::int64_t row_begin, row_end, first_row;
  float* grad;  // [k]
  bool accumulate;
};

// path kRows or kColumns. Scratch: T numbers (with some room) for each of at
// most 1024 touched lines at a time, 64 T a thread for the other operand.
void masked_product(const MaskPlan& plan, const MaskedOperands& operands,
                    MaskPath path);

}  // namespace thinwire
