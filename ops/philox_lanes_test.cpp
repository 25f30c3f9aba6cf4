#include "ops/philox_lanes.h"

#include <gtest/gtest.h>

namespace thinwire {
namespace {

TEST(PhiloxLanes, EveryFunctionDrawsTheScalarNumbers) {
  const RowDraw row{{0x12345678u, 0x9abcdef0u}, 77, 0xffffffffu, 0x80000001u};
  for (const DrawFunction draw : draw_functions()) {
    for (const std::uint32_t block : {0u, 16u, 0xfffffff0u}) {
      std::int32_t out[kDrawn];
      draw(out, row, block);
      for (std::uint32_t f = 0; f < kDrawn; ++f) {
        const PhiloxBlock want = philox(
            row.key,
            {block + f / 32 * 8 + f % 8, row.position, row.sample, row.site});
        ASSERT_EQ(out[f], static_cast<std::int32_t>(want[f / 8 % 4] >> 8)) << f;
      }
    }
  }
}

}  // namespace
}  // namespace thinwire
