// Working memory of the kernels. Internal to ops/.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <new>

namespace thinwire {

// At the start of a cache line.
constexpr std::align_val_t kBufferAlignment{64};

struct FreeAligned {
  void operator()(float* p) const { ::operator delete[](p, kBufferAlignment); }
};
using AlignedBuffer = std::unique_ptr<float[], FreeAligned>;

// n numbers, not initialised.
inline AlignedBuffer make_aligned_buffer(std::int64_t n) {
  return AlignedBuffer(static_cast<float*>(::operator new[](
      static_cast<std::size_t>(n) * sizeof(float), kBufferAlignment)));
}

}  // namespace thinwire
