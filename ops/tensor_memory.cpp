#include "ops/tensor_memory.h"

#include <c10/core/Allocator.h>
#include <c10/core/CPUAllocator.h>

#include <array>
#include <atomic>
#include <cstdint>
#include <mutex>
#include <unordered_map>

namespace thinwire {
namespace {

std::atomic<std::int64_t> live{0}, peak{0};

// Sizes by address: the raw interface of an allocator, which LibTorch's kernels
// use for scratch, wants data and context to be one pointer, so the size has no
// other place. In parts, so that threads seldom meet.
struct Sizes {
  std::mutex mutex;
  std::unordered_map<void*, std::int64_t> of;
};
Sizes& sizes(void* data) {
  // Tensors that outlive main() still come here.
  static auto* parts = new std::array<Sizes, 16>;
  return (*parts)[reinterpret_cast<std::uintptr_t>(data) / 64 % 16];
}

c10::DeleterFnPtr inner_deleter = nullptr;

void release(void* data) {
  Sizes& part = sizes(data);
  {
    const std::lock_guard lock(part.mutex);
    const auto at = part.of.find(data);
    if (at != part.of.end()) {
      live.fetch_sub(at->second, std::memory_order_relaxed);
      part.of.erase(at);
    }
  }
  inner_deleter(data);
}

class CountingAllocator final : public c10::Allocator {
 public:
  explicit CountingAllocator(c10::Allocator* inner) : inner_(inner) {
    inner_deleter = inner->raw_deleter();
  }

  c10::DataPtr allocate(std::size_t n) override {
    c10::DataPtr data = inner_->allocate(n);
    void* const address = data.get();
    if (address == nullptr) return data;
    const auto bytes = static_cast<std::int64_t>(n);
    {
      Sizes& part = sizes(address);
      const std::lock_guard lock(part.mutex);
      part.of[address] = bytes;
    }
    const std::int64_t now =
        live.fetch_add(bytes, std::memory_order_relaxed) + bytes;
    std::int64_t most = peak.load(std::memory_order_relaxed);
    while (now > most &&
           !peak.compare_exchange_weak(most, now, std::memory_order_relaxed)) {
    }
    const c10::Device device = data.device();
    data.release_context();
    return {address, address, &release, device};
  }
  c10::DeleterFnPtr raw_deleter() const override { return &release; }

  void copy_data(void* to, const void* from, std::size_t n) const override {
    inner_->copy_data(to, from, n);
  }

 private:
  c10::Allocator* inner_;
};

}  // namespace

void count_tensor_memory() {
  static std::once_flag once;
  std::call_once(once, [] {
    // Tensors that outlive main() still point here.
    c10::Allocator* const inner = c10::GetCPUAllocator();
    if (inner->raw_deleter() == nullptr) return;  // not one pointer: uncounted
    static auto* allocator = new CountingAllocator(inner);
    c10::SetCPUAllocator(allocator, /*priority=*/1);
  });
}

std::int64_t live_tensor_bytes() {
  return live.load(std::memory_order_relaxed);
}

std::int64_t peak_tensor_bytes() {
  return peak.load(std::memory_order_relaxed);
}

void reset_peak_tensor_bytes() {
  peak.store(live_tensor_bytes(), std::memory_order_relaxed);
}

}  // namespace thinwire
