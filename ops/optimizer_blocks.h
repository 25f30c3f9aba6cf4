// How an optimizer walks its vectors. Internal to ops/.
#pragma once

#include <ATen/Parallel.h>

#include <algorithm>
#include <cstdint>
#include <span>

#include "ops/masked_write.h"

namespace thinwire {

inline constexpr std::int64_t kGrain = 1 << 15;  // numbers a thread takes
// Numbers that change before they are written into weights: their own lines and
// those of the weights stay in L1 and L2 meanwhile.
inline constexpr std::int64_t kWriteBlock = 512;

// update(begin, end) for all of [0, n), in any order and cut; what it left in
// `values` goes into the weights while it is in cache.
template <class Update>
void update_and_write(const float* values, std::int64_t n,
                      std::span<const MaskedWrite> writes,
                      const Update& update) {
  at::parallel_for(0, n, kGrain, [&](std::int64_t begin, std::int64_t end) {
    if (writes.empty()) return update(begin, end);
    for (std::int64_t i = begin; i < end; i += kWriteBlock) {
      const std::int64_t until = std::min(end, i + kWriteBlock);
      prefetch_range(writes, i, until);
      update(i, until);
      write_range(writes, values, i, until);
    }
  });
}

}  // namespace thinwire
