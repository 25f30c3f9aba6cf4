// Ranks as MPI processes. <mpi.h> stays out of this header.
#pragma once

#include <memory>

namespace thinwire {

class Transport;

// Whether mpirun, or srun with PMI, started this process.
bool started_by_mpi() noexcept;

// Initialises MPI with MPI_THREAD_MULTIPLE and finalises it; made once, in
// main, outliving every communicator.
class MpiSession {
 public:
  // Blocks on the other ranks. Throws CommError when MPI lacks what is needed.
  MpiSession();
  // Finalises, blocking on the other ranks. When a message was given up it
  // leaves that out and gives the other ranks 0.3 s to say what they saw; once
  // this process has exited the launcher ends them.
  ~MpiSession();
  MpiSession(const MpiSession&) = delete;
  MpiSession& operator=(const MpiSession&) = delete;

  // Ends all ranks at once with this exit status.
  [[noreturn]] static void abort(int status) noexcept;
};

// Over a duplicate of MPI_COMM_WORLD. Blocks on the other ranks. Throws
// UsageError when there is no MpiSession.
std::unique_ptr<Transport> make_mpi_transport();

}  // namespace thinwire
