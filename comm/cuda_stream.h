// Owners of what the CUDA runtime hands out, and waiting with a deadline: a
// blocking call of the runtime would wait for ever for a peer that is gone.
#pragma once

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <string_view>
#include <thread>
#include <utility>

#include "comm/cuda_api.h"
#include "comm/transport.h"

namespace thinwire {

// Throws CommError naming the call; clears the thread's last error.
void check_cuda(CudaApi& cuda, int code, std::string_view call);

// A stream of the current device.
class CudaStream {
 public:
  CudaStream() = default;
  explicit CudaStream(CudaApi& cuda);
  CudaStream(CudaStream&& other) noexcept
      : cuda_(std::exchange(other.cuda_, nullptr)), handle_(other.handle_) {}
  CudaStream& operator=(CudaStream&& other) noexcept {
    std::swap(cuda_, other.cuda_);
    std::swap(handle_, other.handle_);
    return *this;
  }
  ~CudaStream();

  CudaStreamHandle get() const noexcept { return handle_; }

 private:
  CudaApi* cuda_ = nullptr;
  CudaStreamHandle handle_ = nullptr;
};

class CudaEvent {
 public:
  CudaEvent() = default;
  explicit CudaEvent(CudaApi& cuda);
  CudaEvent(CudaEvent&& other) noexcept
      : cuda_(std::exchange(other.cuda_, nullptr)), handle_(other.handle_) {}
  CudaEvent& operator=(CudaEvent&& other) noexcept {
    std::swap(cuda_, other.cuda_);
    std::swap(handle_, other.handle_);
    return *this;
  }
  ~CudaEvent();

  CudaEventHandle get() const noexcept { return handle_; }

 private:
  CudaApi* cuda_ = nullptr;
  CudaEventHandle handle_ = nullptr;
};

// Host memory that the device reads and writes by itself.
class PinnedBuffer {
 public:
  PinnedBuffer(CudaApi& cuda, std::size_t bytes);
  ~PinnedBuffer();
  PinnedBuffer(const PinnedBuffer&) = delete;
  PinnedBuffer& operator=(const PinnedBuffer&) = delete;

  std::byte* data() const noexcept { return data_; }
  // Leaves the memory to the end of the process: a copy may still touch it.
  void detach() noexcept { data_ = nullptr; }

 private:
  CudaApi& cuda_;
  std::byte* data_ = nullptr;
};

// Calls done() until it returns true; false once the deadline has passed. Spins
// at first, then sleeps for a small part of the time waited so far.
template <class Done>
bool poll_until(SteadyClock::time_point deadline, Done done) {
  using std::chrono::microseconds;
  const auto begin = SteadyClock::now();
  while (!done()) {
    const auto now = SteadyClock::now();
    if (now >= deadline) return done();
    const auto waited = now - begin;
    if (waited < microseconds(100)) {
      std::this_thread::yield();
    } else {
      std::this_thread::sleep_for(std::clamp<SteadyClock::duration>(
          waited / 64, microseconds(2), microseconds(500)));
    }
  }
  return true;
}

// Far limits do not overflow the clock.
inline SteadyClock::time_point deadline_after(double seconds) {
  return SteadyClock::now() +
         std::chrono::duration_cast<SteadyClock::duration>(
             std::chrono::duration<double>(std::clamp(seconds, 0.0, 1e6)));
}

}  // namespace thinwire
