#include "launch/cli.h"

// jemalloc's own setting. A step frees and takes the same few hundred megabytes
// again: given back to the kernel between, their page faults were a tenth of
// the step; in huge pages they miss the address caches less.
extern "C" {
extern const char* const malloc_conf;
const char* const malloc_conf =
    "thp:always,dirty_decay_ms:-1,muzzy_decay_ms:-1";
}

int main(int argc, char** argv) {
  return thinwire::run_command_line(argc, argv);
}
