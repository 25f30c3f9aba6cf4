// The reducer that published sparse exchanges use, for comparison: each rank
// sends its largest values with their places, what it did not send waits in its
// residual. Lin et al. 2018, "Deep Gradient Compression", sec. 3.1, without its
// momentum correction and warm-up, which are the optimizer's.
#pragma once

#include <memory>

#include "comm/reducer.h"

namespace thinwire {

// density: share of the vector that each rank sends, in (0, 1]: 8 bytes a
// number to all others, (P - 1) 8 density k + 40 (P - 1) bytes a rank and
// exchange. All buckets go together in finish(). options.residual is needed,
// the codec is fp32. Same bits on every rank: sums are taken in the order of
// ranks. Throws UsageError.
std::unique_ptr<Reducer> make_top_k_reducer(Communicator& comm,
                                            at::Tensor& vector,
                                            ReducerOptions options,
                                            double density);

// How many numbers of a vector of `count` that is; at least one.
std::int64_t top_k_count(std::int64_t count, double density);

}  // namespace thinwire
