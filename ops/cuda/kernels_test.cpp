// The kernels on a GPU, against the CPU's own. Fails where there is none: run
// only where there is (docs/gpu.md).
#include <cuda_runtime_api.h>
#include <gtest/gtest.h>

#include <cstring>
#include <stdexcept>

#include "ops/device_cases.h"

namespace thinwire {

const DeviceKernels& cuda_device_kernels();

namespace {

void check(int code) {
  if (code == cudaSuccess) return;
  throw std::runtime_error(cuda_device_kernels().error_text(code));
}

struct OnGpu {
  static void dropout(const DropoutJob& job) {
    check(cuda_device_kernels().dropout(job));
  }
  static void masked_dots(const MaskedDotsJob& job) {
    check(cuda_device_kernels().masked_dots(job));
  }
  static void write_masked(const MaskedWrite& write, const float* values) {
    check(cuda_device_kernels().write_masked(write, values));
  }
  static void adamw(const OptimizerJob& job, const AdamwFactors& factors) {
    check(cuda_device_kernels().adamw(job, factors));
  }
  static void lion(const OptimizerJob& job, const LionFactors& factors) {
    check(cuda_device_kernels().lion(job, factors));
  }
  static void sgd(const OptimizerJob& job, const SgdFactors& factors) {
    check(cuda_device_kernels().sgd(job, factors));
  }
  // Memory that both address; this side may look once the GPU is done.
  static at::Tensor to_device(const at::Tensor& x) {
    const at::Tensor from = x.contiguous();
    void* data = nullptr;
    check(cudaMallocManaged(&data, from.nbytes()));
    std::memcpy(data, from.const_data_ptr(), from.nbytes());
    return at::from_blob(
        data, from.sizes(), [](void* p) { cudaFree(p); }, from.options());
  }
  static at::Tensor to_host(const at::Tensor& x) {
    check(cudaDeviceSynchronize());
    return x.clone();
  }
};

TEST(CudaKernels, DropoutHasTheCpusBits) {
  test::check_dropout<OnGpu>();
  test::check_attention_dropout<OnGpu>();
}

TEST(CudaKernels, MaskedDotsAreTheMaskedGradient) {
  test::check_masked_dots<OnGpu>();
}

TEST(CudaKernels, MaskedWritesHaveTheCpusBits) {
  test::check_masked_write<OnGpu>();
}

TEST(CudaKernels, OptimizersHaveTheCpusBits) {
  test::check_optimizers<OnGpu>();
}

}  // namespace
}  // namespace thinwire
