// libthinwire_cuda.so: what was compiled against CUDA and NCCL, opened at run
// time when a GPU is asked for, so that the program itself needs neither.
#pragma once

#include <string>

namespace thinwire {

class CudaApi;
class NcclApi;
struct DeviceKernels;  // ops/device_kernels.h

// What the library exports under kCudaEntry, as `const CudaBindings*(int)`;
// null when it was built for another kCudaInterface.
struct CudaBindings {
  CudaApi* cuda;
  NcclApi* nccl;
  const DeviceKernels* kernels;
};
inline constexpr int kCudaInterface = 2;
inline constexpr const char* kCudaEntry = "thinwire_cuda_bindings";

// Opened on the first call and never closed. Looked for beside the program and
// one folder above it. Throws UsageError that says what to install.
const CudaBindings& load_cuda_library();

// The same for one file.
const CudaBindings& open_cuda_library(const std::string& path);

// For `thinwire env`. Do not throw, and do not start the GPU's driver more than
// to count devices.
std::string describe_cuda_library();  // versions, or why it is not there
std::string describe_gpus();          // "2 x NVIDIA …", or why there is none

}  // namespace thinwire
