// Ranks as MPI processes. <mpi.h> stays out of this header.
#pragma once

#include <memory>

#include "comm/watch.h"

namespace thinwire {

class Transport;

// Whether mpirun, or srun with PMI, started this process.
bool started_by_mpi() noexcept;
// The rank it was given, known before MPI is; -1: none.
int launched_rank() noexcept;

// Makes watch, the current one, know all ranks of MPI_COMM_WORLD. Blocks on
// them and throws CommError naming who cannot reach whom. MpiSession does it.
void join_watch(Watch& watch);

// Initialises MPI with MPI_THREAD_MULTIPLE, watches over the ranks, finalises;
// made once, in main, outliving every communicator.
class MpiSession {
 public:
  // Blocks on the other ranks, for kStartSeconds at most each of MPI_Init and
  // meeting them. Throws CommError when MPI lacks what is needed.
  explicit MpiSession(WatchOptions options);
  // Finalises, blocking on the other ranks. After a failure, or when a message
  // was given up, it leaves that out and gives the other ranks 0.3 s to say
  // what they saw; once this process has exited the launcher ends them.
  ~MpiSession();
  MpiSession(const MpiSession&) = delete;
  MpiSession& operator=(const MpiSession&) = delete;

  // Ends all ranks at once with this exit status.
  [[noreturn]] static void abort(int status) noexcept;

  Watch& watch() noexcept { return *watch_; }

 private:
  std::unique_ptr<Watch> watch_;
};

// Over a duplicate of MPI_COMM_WORLD. Blocks on the other ranks. Throws
// UsageError when there is no MpiSession.
std::unique_ptr<Transport> make_mpi_transport();

}  // namespace thinwire
