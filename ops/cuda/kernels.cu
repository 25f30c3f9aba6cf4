// The kernels of ops/device_kernels.h for CUDA: launches alone, what each
// thread does is in ops/device_bodies.h. Compiled without contraction of
// products and sums, so that dropout and optimizers have the CPU's bits.
#include <c10/cuda/CUDAStream.h>
#include <cuda_runtime_api.h>

#include <algorithm>

#include "ops/device_bodies.h"
#include "ops/device_kernels.h"

namespace thinwire {
namespace {

constexpr int kThreads = 256;  // a block
// Blocks of the largest grid: enough for every processor of today's GPUs;
// threads go on by the grid's width.
constexpr std::int64_t kMostBlocks = 1 << 16;

unsigned blocks_for(std::int64_t threads) {
  return static_cast<unsigned>(
      std::min((threads + kThreads - 1) / kThreads, kMostBlocks));
}

cudaStream_t stream() { return c10::cuda::getCurrentCUDAStream().stream(); }

__device__ std::int64_t first_thread() {
  return static_cast<std::int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
}
__device__ std::int64_t all_threads() {
  return static_cast<std::int64_t>(gridDim.x) * blockDim.x;
}

__global__ void dropout_kernel(DropoutJob job) {
  const std::int64_t items = dropout_items(job);
  for (std::int64_t i = first_thread(); i < items; i += all_threads()) {
    dropout_item(job, i);
  }
}

// A warp a position, in their order: neighbours share a line of dy.
__global__ void masked_dots_kernel(MaskedDotsJob job) {
  const int lane = static_cast<int>(threadIdx.x % kWarp);
  const std::int64_t warps = all_threads() / kWarp;
  for (std::int64_t i = first_thread() / kWarp; i < job.k; i += warps) {
    DotLines lines;
    if (!dot_lines(job, i, lines)) continue;  // the same for the whole warp
    float sum = masked_dot_lane(job, lines, lane);
    for (int step = kWarp / 2; step > 0; step /= 2) {
      sum += __shfl_down_sync(0xffffffffu, sum, static_cast<unsigned>(step));
    }
    if (lane == 0) masked_dot_store(job, i, sum);
  }
}

__global__ void write_kernel(MaskedWrite write, const float* values) {
  for (std::int64_t i = first_thread(); i < write.count; i += all_threads()) {
    write_item(write, i, values[i]);
  }
}

__global__ void adamw_kernel(OptimizerJob job, AdamwFactors factors) {
  for (std::int64_t i = first_thread(); i < job.n; i += all_threads()) {
    adamw_item(job, factors, i);
  }
}

__global__ void lion_kernel(OptimizerJob job, LionFactors factors) {
  for (std::int64_t i = first_thread(); i < job.n; i += all_threads()) {
    lion_item(job, factors, i);
  }
}

__global__ void sgd_kernel(OptimizerJob job, SgdFactors factors) {
  for (std::int64_t i = first_thread(); i < job.n; i += all_threads()) {
    sgd_item(job, factors, i);
  }
}

template <class... Kernel, class... Arguments>
int launch(void (*kernel)(Kernel...), std::int64_t threads,
           const Arguments&... arguments) {
  if (threads == 0) return cudaSuccess;
  kernel<<<blocks_for(threads), kThreads, 0, stream()>>>(arguments...);
  return cudaGetLastError();
}

int dropout(const DropoutJob& job) {
  return launch(&dropout_kernel, dropout_items(job), job);
}
int masked_dots(const MaskedDotsJob& job) {
  return launch(&masked_dots_kernel, job.k * kWarp, job);
}
int write_masked(const MaskedWrite& write, const float* values) {
  return launch(&write_kernel, write.count, write, values);
}
int adamw(const OptimizerJob& job, const AdamwFactors& factors) {
  return launch(&adamw_kernel, job.n, job, factors);
}
int lion(const OptimizerJob& job, const LionFactors& factors) {
  return launch(&lion_kernel, job.n, job, factors);
}
int sgd(const OptimizerJob& job, const SgdFactors& factors) {
  return launch(&sgd_kernel, job.n, job, factors);
}
const char* error_text(int code) {
  return cudaGetErrorString(static_cast<cudaError_t>(code));
}

}  // namespace

const DeviceKernels& cuda_device_kernels() {
  static constexpr DeviceKernels kTable{
      &dropout, &masked_dots, &write_masked, &adamw, &lion, &sgd, &error_text};
  return kTable;
}

}  // namespace thinwire
