// One process of a job: MPI where mpirun started it, errors reported once,
// one exit status for all ranks.
#pragma once

#include <cstdint>
#include <functional>
#include <string>

#include "base/error.h"

namespace thinwire {

class Communicator;

// A file that failed a run under way, where an IoError before it is bad input:
// exit status 1 instead of 2.
class RunIoError : public IoError {
 public:
  using IoError::IoError;
};

// Exit statuses that others rely on.
inline constexpr int kExitDone = 0;
inline constexpr int kExitFailed = 1;         // a run that failed
inline constexpr int kExitUsage = 2;          // bad usage, config or input
inline constexpr int kExitCheckpointed = 75;  // on a signal: start me again

// Runs body with the communicator of all ranks and returns the status of the
// process, the same on every rank that lives. What body throws is printed on
// stderr as one line, `error: …` when every rank says so and `[rank R] error:
// …` by the lowest rank that knows the cause otherwise; ranks that wait for one
// that threw are released. Never throws.
int run_job(const std::function<int(Communicator&)>& body);

// Throws UsageError with the first line that differs from rank 0's text.
void agree_text(Communicator& comm, const std::string& what,
                const std::string& text);

// Ranks of this job on this host, as the launcher says; 1 without one.
int local_ranks();

// Sets the threads of tensor operations: `requested`, or when 0 the cores this
// process may use divided by the host's ranks (under mpirun the library would
// silently choose 1). Returns and logs the number.
int set_threads(std::int64_t requested);

}  // namespace thinwire
