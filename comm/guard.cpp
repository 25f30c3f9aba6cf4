// What all ranks said, from what each said.
#include <limits>

#include "comm/reducer.h"

namespace thinwire {

void combine(Guard& low, const Guard& high) noexcept {
  if (low.fingerprint != high.fingerprint) low.flags |= Guard::kMismatch;
  low.flags |= high.flags;
  low.loss += high.loss;
  low.weight += high.weight;
  low.squares += high.squares;
  constexpr std::uint32_t kMost = std::numeric_limits<std::uint32_t>::max();
  low.tokens =
      high.tokens > kMost - low.tokens ? kMost : low.tokens + high.tokens;
}

}  // namespace thinwire
