// Logging: spdlog's default logger, set up once per process by launch/.
// Libraries call spdlog::info, warn, … and nothing else.
#pragma once

#include <string>

namespace thinwire {

// Every message is prefixed by time, level and rank. stderr gets info and above
// on rank 0, warnings and above on the others; `file`, when not empty, gets
// info and above and is appended to. Throws IoError when it cannot be opened.
void init_log(int rank, const std::string& file);

// A line for the file alone, there when the call returns; from any thread. Does
// nothing without a file.
void log_to_file(const std::string& line);

}  // namespace thinwire
