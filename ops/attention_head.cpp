#include "ops/attention_head.h"

#include "base/error.h"

namespace thinwire {

const HeadKernels& head_kernels(Isa isa) {
  const HeadKernels* out = isa == Isa::kAvx512 ? head_kernels_avx512()
                           : isa == Isa::kAvx2 ? head_kernels_avx2()
                                               : head_kernels_portable();
  THINWIRE_ASSERT(out != nullptr, "no attention kernels for {}", name_of(isa));
  return *out;
}

}  // namespace thinwire
