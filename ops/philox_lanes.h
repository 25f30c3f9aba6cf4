// Many draws of one row at once. Internal to ops/.
#pragma once

#include <cstdint>
#include <vector>

#include "ops/dropout_numbers.h"

namespace thinwire {

// Draws at a time.
constexpr std::int64_t kDrawn = 64;

// out[i] = the upper 24 bits of number 4 * block + i of the row, i < 64; block
// a multiple of 16.
using DrawFunction = void (*)(std::int32_t out[kDrawn], const RowDraw& row,
                              std::uint32_t block);

// That of isa().
DrawFunction draw_function();
// All that it runs, portable first; the same numbers from each.
std::vector<DrawFunction> draw_functions();

}  // namespace thinwire
