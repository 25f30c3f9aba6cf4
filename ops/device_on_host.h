// The kernels of ops/device_kernels.h as loops on the CPU, for tests: of a
// device whose memory is the CPU's.
#pragma once

#include <ATen/core/Tensor.h>

#include "ops/device_bodies.h"

namespace thinwire::test {

// Every item of a kernel in turn, the last first.
struct OnHost {
  static int dropout(const DropoutJob& job) {
    for (std::int64_t i = dropout_items(job); i-- > 0;) dropout_item(job, i);
    return 0;
  }
  static int masked_dots(const MaskedDotsJob& job) {
    for (std::int64_t i = job.k; i-- > 0;) {
      DotLines lines;
      if (!dot_lines(job, i, lines)) continue;
      float lanes[kWarp];
      for (int lane = 0; lane < kWarp; ++lane) {
        lanes[lane] = masked_dot_lane(job, lines, lane);
      }
      for (int step = kWarp / 2; step > 0; step /= 2) {
        for (int lane = 0; lane < step; ++lane) {
          lanes[lane] += lanes[lane + step];
        }
      }
      masked_dot_store(job, i, lanes[0]);
    }
    return 0;
  }
  static int write_masked(const MaskedWrite& write, const float* values) {
    for (std::int64_t i = write.count; i-- > 0;) {
      write_item(write, i, values[i]);
    }
    return 0;
  }
  static int adamw(const OptimizerJob& job, const AdamwFactors& f) {
    for (std::int64_t i = job.n; i-- > 0;) adamw_item(job, f, i);
    return 0;
  }
  static int lion(const OptimizerJob& job, const LionFactors& f) {
    for (std::int64_t i = job.n; i-- > 0;) lion_item(job, f, i);
    return 0;
  }
  static int sgd(const OptimizerJob& job, const SgdFactors& f) {
    for (std::int64_t i = job.n; i-- > 0;) sgd_item(job, f, i);
    return 0;
  }
  static const char* error_text(int) { return "none"; }

  // The host's memory is the device's.
  static at::Tensor to_device(const at::Tensor& x) { return x.clone(); }
  static at::Tensor to_host(const at::Tensor& x) { return x; }
};

// In place of what the process uses, for a scope.
class UseKernelsOnHost {
 public:
  UseKernelsOnHost() : before_(device_kernels()) {
    static constexpr DeviceKernels kTable{
        &OnHost::dropout,   &OnHost::masked_dots, &OnHost::write_masked,
        &OnHost::adamw,     &OnHost::lion,        &OnHost::sgd,
        &OnHost::error_text};
    set_device_kernels(&kTable);
  }
  ~UseKernelsOnHost() { set_device_kernels(before_); }
  UseKernelsOnHost(const UseKernelsOnHost&) = delete;
  UseKernelsOnHost& operator=(const UseKernelsOnHost&) = delete;

 private:
  const DeviceKernels* before_;
};

}  // namespace thinwire::test
