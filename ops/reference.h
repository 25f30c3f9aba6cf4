// Every kernel has a twin in plain ATen operations: slower, differentiable
// twice, what tests compare with. With this switch on (ops.reference: true)
// the twins run in the kernels' place.
#pragma once

namespace thinwire {

bool reference_ops();
void set_reference_ops(bool on);

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
