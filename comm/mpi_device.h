// Whether the MPI library takes addresses in a GPU's memory. One that does not
// would not say so but crash. <mpi.h> stays out of this header.
#pragma once

#include <string>

namespace thinwire {

// What the library says at run time; false where it cannot be asked.
bool mpi_takes_device_memory() noexcept;

// For `thinwire env`: the same in words, and how it is known.
std::string describe_mpi_device_memory();

}  // namespace thinwire
