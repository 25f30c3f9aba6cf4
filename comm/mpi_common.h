// What the files over MPI share; included by those alone.
#pragma once

#include <mpi.h>

#include <array>
#include <atomic>
#include <string>

#include "base/error.h"

namespace thinwire::mpi {

inline std::string error_text(int code) {
  std::array<char, MPI_MAX_ERROR_STRING> text{};
  int length = 0;
  MPI_Error_string(code, text.data(), &length);
  return {text.data(), static_cast<std::size_t>(length)};
}

inline void check(int code, const char* call) {
  if (code != MPI_SUCCESS) {
    fail<CommError>("{} failed: {}", call, error_text(code));
  }
}

// A message was given up: MPI_Finalize would wait for it.
inline std::atomic<bool> some_message_abandoned{false};

}  // namespace thinwire::mpi
