#include "comm/cuda_stream.h"

#include <spdlog/spdlog.h>

#include "base/error.h"

namespace thinwire {
namespace {

// Destructors report and go on.
void warn(CudaApi& cuda, int code, const char* call) noexcept {
  if (code == CudaApi::kSuccess) return;
  cuda.last_error();
  spdlog::warn("{}: {}", call, cuda.error_text(code));
}

}  // namespace

void check_cuda(CudaApi& cuda, int code, std::string_view call) {
  if (code == CudaApi::kSuccess) return;
  cuda.last_error();
  fail<CommError>("{}: {} (CUDA error {})", call, cuda.error_text(code), code);
}

CudaStream::CudaStream(CudaApi& cuda) {
  check_cuda(cuda, cuda.stream_create(handle_), "cudaStreamCreate");
  cuda_ = &cuda;
}

CudaStream::~CudaStream() {
  if (cuda_ == nullptr) return;
  warn(*cuda_, cuda_->stream_destroy(handle_), "cudaStreamDestroy");
}

CudaEvent::CudaEvent(CudaApi& cuda) {
  check_cuda(cuda, cuda.event_create(handle_), "cudaEventCreate");
  cuda_ = &cuda;
}

CudaEvent::~CudaEvent() {
  if (cuda_ == nullptr) return;
  warn(*cuda_, cuda_->event_destroy(handle_), "cudaEventDestroy");
}

PinnedBuffer::PinnedBuffer(CudaApi& cuda, std::size_t bytes) : cuda_(cuda) {
  void* data = nullptr;
  check_cuda(cuda, cuda.host_alloc(data, bytes), "cudaHostAlloc");
  data_ = static_cast<std::byte*>(data);
}

PinnedBuffer::~PinnedBuffer() {
  if (data_ != nullptr) warn(cuda_, cuda_.host_free(data_), "cudaFreeHost");
}

}  // namespace thinwire
