// Which numbers dropout draws for a row: the same functions for CPU and GPU.
// Internal to ops/.
#pragma once

#include <cstdint>

#include "base/random.h"

namespace thinwire {

struct RowDraw {
  PhiloxKey key;
  std::uint32_t position, sample, site;
};

constexpr RowDraw draw_of_row(PhiloxKey key, std::uint64_t sample,
                              std::uint32_t position, std::uint32_t site) {
  const std::uint64_t high = mix64(sample >> 32);
  return {{key.k0 ^ static_cast<std::uint32_t>(high),
           key.k1 ^ static_cast<std::uint32_t>(high >> 32)},
          position,
          static_cast<std::uint32_t>(sample),
          site};
}

// Of one head's attention weights.
constexpr std::uint32_t site_of_head(std::uint32_t site, std::int64_t head) {
  return site ^ static_cast<std::uint32_t>(head) * 0x9E3779B1u;
}

// Number f of a row is word (f / 8) % 4 of Philox block f / 32 * 8 + f % 8:
// eight blocks side by side fill 32 numbers in order, so neither drawing nor
// storing shuffles lanes.
constexpr std::int64_t draw_feature(std::int64_t block, std::int64_t word) {
  return block / 8 * 32 + word * 8 + block % 8;
}
constexpr std::int64_t draw_blocks(std::int64_t d) { return (d + 31) / 32 * 8; }

}  // namespace thinwire
