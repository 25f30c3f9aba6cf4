// Kernels for tensors on a GPU, reached through a table that
// libthinwire_cuda.so fills (ops/cuda/): the program itself needs no CUDA
// header. Each does what the bodies in ops/device_bodies.h say, item by item,
// on the current stream of the current device; none waits for its end. Without
// the table, tensors off the CPU take plain ATen operations.
#pragma once

#include <cstdint>

#include "base/random.h"
#include "ops/masked_range.h"
#include "ops/optimizer_elements.h"

namespace thinwire {

// out = in, or 0 where the draw is below the threshold, times scale. All
// pointers are of the device.
struct DropoutJob {
  float* out = nullptr;
  const float* in = nullptr;  // may be out
  // Of each row; with heads, of each (sequence, query).
  const std::int64_t* samples = nullptr;
  const std::int64_t* positions = nullptr;
  std::int64_t rows = 0, d = 0;
  // heads > 0: rows are [B, heads, queries]; zeros past lengths [B].
  std::int64_t heads = 0, queries = 0;
  const std::int64_t* lengths = nullptr;
  PhiloxKey key{};
  std::uint32_t site = 0;
  std::int32_t threshold = 0;  // of 24 bits
  float scale = 1;
};

// grad[k] (+)= sum over t of dy[t, i] x[t, j] for the k'th position, (i, j);
// from transposed operands, so that a dot product reads numbers in line.
struct MaskedDotsJob {
  float* grad = nullptr;        // fp32 [k]
  const void* index = nullptr;  // [k] flat positions i * in + j
  bool wide = false;            // int64, else int32
  std::int64_t k = 0, in = 0;
  const void* x = nullptr;   // [in, tokens]
  const void* dy = nullptr;  // [rows, tokens]: i = first_row + row
  bool bf16 = false;         // x and dy; else fp32
  std::int64_t tokens = 0, first_row = 0, rows = 0;
  bool accumulate = false;
};

// One pass of an optimizer over n numbers; `writes` (ascending, disjoint) lies
// in the device's memory, as does all that it points to.
struct OptimizerJob {
  float* values = nullptr;
  const float* grads = nullptr;
  float* first = nullptr;   // AdamW m, Lion momentum, SGD velocity (or null)
  float* second = nullptr;  // AdamW v
  const float* decay_towards = nullptr;  // null: zero
  std::int64_t n = 0;
  const MaskedWrite* writes = nullptr;
  std::int64_t writes_count = 0;
};

// Each returns 0, or the runtime's error code.
struct DeviceKernels {
  int (*dropout)(const DropoutJob& job);
  int (*masked_dots)(const MaskedDotsJob& job);
  // values [write.count], from the number write.begin of the vector.
  int (*write_masked)(const MaskedWrite& write, const float* values);
  int (*adamw)(const OptimizerJob& job, const AdamwFactors& factors);
  int (*lion)(const OptimizerJob& job, const LionFactors& factors);
  int (*sgd)(const OptimizerJob& job, const SgdFactors& factors);
  const char* (*error_text)(int code);
};

// Of the one device that is not the CPU. Null until set, as long as the process
// lives.
const DeviceKernels* device_kernels();
void set_device_kernels(const DeviceKernels* kernels);

// Throws Error that names the kernel unless code is 0.
void check_kernel(int code, const char* kernel);

}  // namespace thinwire
