#include "dist/ownership.h"

#include <ATen/ops/ones.h>

#include "base/error.h"

namespace thinwire {

at::Tensor owned_numbers(const Delta& delta, int rank, int ranks) {
  at::Tensor owned;
  int workers = 0;
  for (const DeltaEntry& e : delta.entries()) {
    const auto found = delta.constants().find(owner_constant(e.name));
    if (found == delta.constants().end()) continue;
    const at::Tensor& owner = found->second;
    if (owner.scalar_type() != at::kInt || owner.numel() != e.count) {
      fail<UsageError>("'{}' must be {} int32 numbers", found->first, e.count);
    }
    if (!owned.defined()) owned = at::ones({delta.size()}, at::kBool);
    const auto* from = owner.const_data_ptr<std::int32_t>();
    bool* to = owned.mutable_data_ptr<bool>() + e.offset;
    for (std::int64_t i = 0; i < e.count; ++i) {
      to[i] = from[i] == rank;
      workers = std::max(workers, from[i] + 1);
      if (from[i] < 0) fail<UsageError>("'{}' holds {}", found->first, from[i]);
    }
  }
  if (workers > ranks) {
    fail<UsageError>(
        "the delta was dealt out to {} workers, here are {} ranks; run as many",
        workers, ranks);
  }
  return owned;
}

}  // namespace thinwire
