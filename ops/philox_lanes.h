// Many draws of one row at once. Internal to ops/.
#pragma once

#include <cstdint>
#include <vector>

#include "base/random.h"

namespace thinwire {

struct RowDraw {
  PhiloxKey key;
  std::uint32_t position, sample, site;
};

// Number f of a row is word (f / 8) % 4 of Philox block f / 32 * 8 + f % 8:
// eight blocks side by side fill 32 numbers in order, so neither drawing nor
// storing shuffles lanes.
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
