// The CUDA runtime as far as comm/ needs it, without its headers: filled by
// libthinwire_cuda.so (comm/cuda/) from the real one, by a fake in tests. Every
// call returns the runtime's own code, 0 for success, and does not block.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <string>

struct CUevent_st;
struct CUstream_st;

namespace thinwire {

// nullptr is the legacy default stream.
using CudaStreamHandle = CUstream_st*;
using CudaEventHandle = CUevent_st*;

struct GpuIdentity {
  std::array<std::byte, 16> uuid{};  // unique among all hosts
  std::string name;
  std::int64_t bytes = 0;  // of its memory
};

class CudaApi {
 public:
  static constexpr int kSuccess = 0;
  static constexpr int kNotReady = 600;

  virtual ~CudaApi() = default;

  virtual int runtime_version(int& version) noexcept = 0;  // 13000: 13.0
  virtual int device_count(int& count) noexcept = 0;
  virtual int identify(int device, GpuIdentity& out) = 0;
  virtual int set_device(int device) noexcept = 0;  // of the calling thread

  // The stream on which the calling thread's tensor operations run.
  virtual CudaStreamHandle compute_stream(int device) noexcept = 0;
  // Of the current device, at its highest priority, not ordered with the
  // default stream.
  virtual int stream_create(CudaStreamHandle& out) noexcept = 0;
  virtual int stream_destroy(CudaStreamHandle stream) noexcept = 0;
  // What is put on the stream from now on starts after the event.
  virtual int stream_wait_event(CudaStreamHandle stream,
                                CudaEventHandle event) noexcept = 0;
  // Runs function(data) on a thread of the runtime once all that is on the
  // stream is done; it may not call the runtime, and is left out after an
  // error.
  virtual int launch_host_function(CudaStreamHandle stream,
                                   void (*function)(void*),
                                   void* data) noexcept = 0;

  virtual int event_create(CudaEventHandle& out) noexcept = 0;  // no timing
  virtual int event_destroy(CudaEventHandle event) noexcept = 0;
  virtual int event_record(CudaEventHandle event,
                           CudaStreamHandle stream) noexcept = 0;
  virtual int event_query(CudaEventHandle event) noexcept = 0;  // or kNotReady

  // Between host and device, whichever way the addresses say.
  virtual int memcpy_async(void* to, const void* from, std::size_t bytes,
                           CudaStreamHandle stream) noexcept = 0;
  virtual int host_alloc(void*& out, std::size_t bytes) noexcept = 0;  // pinned
  virtual int host_free(void* data) noexcept = 0;

  // The last error of the calling thread, which it clears.
  virtual int last_error() noexcept = 0;
  virtual const char* error_text(int code) noexcept = 0;
};

}  // namespace thinwire
