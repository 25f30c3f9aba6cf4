#include "launch/cli.h"

// jemalloc's own setting. A step frees and takes the same few hundred megabytes
// again: given back to the kernel between, their page faults were a tenth of
// the step; in huge pages they miss the address caches less. What is kept may be
// cut up to 2^10 times smaller: at jemalloc's 2^6, ragged batches leave pieces
// that nothing takes again, and the process grows with every step.
extern "C" {
extern const char* const malloc_conf;
const char* const malloc_conf =
    "thp:always,dirty_decay_ms:-1,muzzy_decay_ms:-1,"
    "lg_extent_max_active_fit:10";
}

int main(int argc, char** argv) {
  return thinwire::run_command_line(argc, argv);
}
