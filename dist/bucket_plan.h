// Which ranges of the delta travel together, and in which order.
//
// Where the vector is cut depends on the layout and the size asked for alone,
// so that the order, which comes from a recorded backward, changes speed and
// no bit.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "comm/reducer.h"
#include "peft/delta.h"

namespace thinwire {

// Contiguous ranges that cover the vector, cut where an entry begins; an entry
// longer than `bytes` (of fp32) is cut into equal parts. One codec each: that
// of the entry's group, where "default" is `codec`. Sent in the order in which
// the last of their entries is final: order[i] is the i-th entry to be so;
// empty: the last entry of the layout first. Throws UsageError for a codec that
// does not exist.
std::vector<Bucket> plan_buckets(const Delta& delta, Codec codec,
                                 std::int64_t bytes,
                                 std::span<const int> order);

// All entries in the order of their finality, from those that a backward
// reached; the others are put beside their neighbours in the layout.
std::vector<int> complete_order(const Delta& delta,
                                std::span<const int> reached);

// For each entry the buckets that hold numbers of it.
std::vector<std::vector<int>> buckets_of_entries(
    const Delta& delta, std::span<const Bucket> buckets);

}  // namespace thinwire
