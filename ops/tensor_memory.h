// Counts the bytes of all CPU tensors: what is alive, and the most that was.
// Bytes as asked for, without what the heap adds; storage that wraps memory of
// others (mapped weights) is not in it.
#pragma once

#include <cstdint>

namespace thinwire {

// From now on every CPU tensor is counted; those before it never are. Once per
// process; later calls do nothing. Costs a lock and a table's entry per tensor.
// Thread-safe, as the rest. Should LibTorch's allocator ever keep more than one
// pointer per block, nothing is counted.
void count_tensor_memory();

std::int64_t live_tensor_bytes();  // 0 until counting began
std::int64_t peak_tensor_bytes();  // since the last reset
void reset_peak_tensor_bytes();    // to what is alive

}  // namespace thinwire
