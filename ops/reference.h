// Every kernel has a twin in plain ATen operations: slower, differentiable
// twice, what tests compare with. With this switch on (ops.reference: true)
// the twins run in the kernels' place.
//
// They also run, unasked, on tensors that lie elsewhere than in the CPU's
// memory: plain operations work on any device.
#pragma once

#include <ATen/core/Tensor.h>

namespace thinwire {

bool reference_ops();
void set_reference_ops(bool on);

// Whether an op on x takes its twin.
bool plain_twin(const at::Tensor& x);

// A batch is described in the CPU's memory (tokens, labels, positions, masks),
// whatever the device of the weights: an op that works with such a tensor takes
// it to its operand's. Returns `t` itself if it is there; else a copy, the same
// one for the few tensors that were asked for last, so t must not change
// afterwards.
at::Tensor beside(const at::Tensor& t, const at::Tensor& x);

// For a scope; not for several threads at once.
class UseReferenceOps {
 public:
  explicit UseReferenceOps(bool on = true) : before_(reference_ops()) {
    set_reference_ops(on);
  }
  ~UseReferenceOps() { set_reference_ops(before_); }
  UseReferenceOps(const UseReferenceOps&) = delete;
  UseReferenceOps& operator=(const UseReferenceOps&) = delete;

 private:
  bool before_;
};

}  // namespace thinwire
