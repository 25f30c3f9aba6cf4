// Exact global top-k over scores that lie in several tensors, without sorting
// or copying them: two histogram passes over the bit patterns (non-negative
// floats order like their integers), then one pass that collects.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <span>
#include <vector>

namespace thinwire {

enum class Extreme { kLargest, kSmallest };

// scores: contiguous fp32 CPU tensors, every value finite and >= 0. The tensors
// count as one concatenation; ties at the threshold go to the lower flat
// position. Returns for each tensor the sorted local positions chosen, int32
// (int64 where the tensor has 2^31 elements or more); k in all. Throws
// UsageError if k exceeds the elements, or a score is negative or not finite.
std::vector<at::Tensor> top_k_indices(std::span<const at::Tensor> scores,
                                      std::int64_t k,
                                      Extreme which = Extreme::kLargest);

}  // namespace thinwire
