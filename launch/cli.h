// The command line: verbs and their options through CLI11, which stays out of
// every other file.
#pragma once

namespace thinwire {

// Returns the exit status of the process; never throws.
int run_command_line(int argc, char** argv);

}  // namespace thinwire
