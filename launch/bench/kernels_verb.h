// `thinwire bench kernels`.
#pragma once

#include "launch/verb.h"

namespace thinwire {

// Prints the tables, writes --json. Throws UsageError for options that cannot
// be, InternalError for a wrong answer.
int run_bench_kernels(const Arguments& arguments);

}  // namespace thinwire
