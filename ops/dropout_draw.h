// What dropout draws for a row. Internal to ops/.
#pragma once

#include <cmath>
#include <cstdint>

#include "base/error.h"
#include "base/random.h"
#include "ops/dropout.h"
#include "ops/philox_lanes.h"

namespace thinwire {

struct DropoutDraw {
  // Throws UsageError unless 0 <= p < 1.
  DropoutDraw(double p, const DropoutKey& from) : site(from.site) {
    if (!(p >= 0 && p < 1)) {
      fail<UsageError>("dropout probability must be in [0, 1), got {}", p);
    }
    key = make_key(from.seed, Purpose::kDropout, from.step);
    threshold = static_cast<std::int32_t>(std::ceil(p * 0x1.0p24));
    scale = static_cast<float>(1.0 / (1.0 - p));
  }

  RowDraw row(std::uint64_t sample, std::uint32_t position,
              std::uint32_t row_site) const {
    return draw_of_row(key, sample, position, row_site);
  }

  // Of one head's attention weights.
  std::uint32_t head_site(std::int64_t head) const {
    return site_of_head(site, head);
  }

  PhiloxKey key{};
  std::uint32_t site = 0;
  std::int32_t threshold = 0;  // kept: 24-bit draw >= threshold
  float scale = 1;             // of what is kept
};

}  // namespace thinwire
