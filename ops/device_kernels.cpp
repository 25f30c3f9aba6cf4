#include "ops/device_kernels.h"

#include <atomic>

#include "base/error.h"

namespace thinwire {
namespace {

std::atomic<const DeviceKernels*> table{nullptr};

}  // namespace

const DeviceKernels* device_kernels() { return table; }
void set_device_kernels(const DeviceKernels* kernels) { table = kernels; }

void check_kernel(int code, const char* kernel) {
  if (code == 0) return;
  fail<Error>("GPU: {}: {}", kernel, device_kernels()->error_text(code));
}

}  // namespace thinwire
