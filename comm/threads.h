// Ranks as threads of one process: for tests, and for experiments without MPI.
#pragma once

#include <functional>

namespace thinwire {

class Communicator;

// Runs body on `ranks` threads, each with its own communicator, and returns
// when all have ended. Rethrows the error that came first; a rank that throws
// or returns early ends the others' waits with CommError naming it, so none
// hangs.
void run_ranks(int ranks, const std::function<void(Communicator&)>& body);

}  // namespace thinwire
