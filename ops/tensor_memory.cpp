#include "ops/tensor_memory.h"

#include <c10/core/Allocator.h>
#include <c10/core/CPUAllocator.h>

#include <atomic>
#include <mutex>
#include <utility>

namespace thinwire {
namespace {

std::atomic<std::int64_t> live{0}, peak{0};

// What a tensor's storage holds on to: the library's own block and its size.
struct Block {
  c10::DataPtr data;
  std::int64_t bytes;
};

void release(void* context) {
  auto* block = static_cast<Block*>(context);
  live.fetch_sub(block->bytes, std::memory_order_relaxed);
  delete block;
}

// Context and data differ, so there is no raw interface: the base class says so
// by a null raw_deleter().
class CountingAllocator final : public c10::Allocator {
 public:
  explicit CountingAllocator(c10::Allocator* inner) : inner_(inner) {}

  c10::DataPtr allocate(std::size_t n) override {
    c10::DataPtr data = inner_->allocate(n);
    if (data.get() == nullptr) return data;
    const c10::Device device = data.device();
    void* const address = data.get();
    const auto bytes = static_cast<std::int64_t>(n);
    auto* block = new Block{std::move(data), bytes};
    const std::int64_t now =
        live.fetch_add(bytes, std::memory_order_relaxed) + bytes;
    std::int64_t most = peak.load(std::memory_order_relaxed);
    while (now > most &&
           !peak.compare_exchange_weak(most, now, std::memory_order_relaxed)) {
    }
    return {address, block, &release, device};
  }

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
    static auto* allocator = new CountingAllocator(c10::GetCPUAllocator());
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
