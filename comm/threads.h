// Ranks as threads of one process: for tests, and for experiments without MPI.
#pragma once

#include <functional>
#include <vector>

namespace thinwire {

class Communicator;

// Runs body on `ranks` threads, each with its own communicator, and returns
// when all have ended. Rethrows the error that came first; a rank that throws
// or returns early ends the others' waits with CommError naming it, so none
// hangs. hosts: on which host each is to believe itself, numbered by the lowest
// rank there; else all on one.
void run_ranks(int ranks, const std::function<void(Communicator&)>& body,
               std::vector<int> hosts = {});

}  // namespace thinwire
