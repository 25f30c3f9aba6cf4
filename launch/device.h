// Where the tensors of a run are: config key `device`.
//
// With `cuda`, libthinwire_cuda.so (our kernels) and libtorch_cuda.so
// (LibTorch's) are opened at run time; rank i of a host takes its GPU i.
#pragma once

#include <ATen/core/Tensor.h>

#include <string>

namespace thinwire {

class Communicator;

// Opens what `device` (cpu | cuda) needs; before any tensor goes there. Blocks
// on all ranks. Throws UsageError on all alike: no GPU, fewer than ranks on a
// host, a library that is missing.
at::Device open_device(const std::string& device, Communicator& comm);

// LibTorch's own CUDA half, from the folder of its CPU half. Throws UsageError
// that says what is missing.
void load_torch_cuda();

}  // namespace thinwire
