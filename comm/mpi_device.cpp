#include "comm/mpi_device.h"

#include <mpi.h>
#if __has_include(<mpi-ext.h>)
#include <mpi-ext.h>  // Open MPI's extensions
#endif

namespace thinwire {

// Built against a library that has never heard of it, the extension's name is
// not there at all.
bool mpi_takes_device_memory() noexcept {
#ifdef MPIX_CUDA_AWARE_SUPPORT
  return MPIX_Query_cuda_support() == 1;
#else
  return false;
#endif
}

std::string describe_mpi_device_memory() {
#ifdef MPIX_CUDA_AWARE_SUPPORT
  return mpi_takes_device_memory() ? "yes (MPIX_Query_cuda_support)"
                                   : "no (MPIX_Query_cuda_support)";
#else
  return "not known (no MPIX_Query_cuda_support): taken as no";
#endif
}

}  // namespace thinwire
