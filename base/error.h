// The errors Thinwire throws. What the user, a file or the network did is an
// exception with one actionable line; what cannot happen is InternalError.
// Libraries throw; only launch/ prints and picks the exit status.
#pragma once

#include <fmt/format.h>

#include <stdexcept>
#include <string>
#include <utility>

namespace thinwire {

class Error : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

// Bad config, argument, shape or input file content. Message: the field, its
// value, what is allowed, what to do. Exit status 2.
class UsageError : public Error {
 public:
  using Error::Error;
};

// A file or HDF5 call failed. Message: path, what was attempted, the system's
// own text. Exit status 2 before training starts, 1 afterwards.
class IoError : public Error {
 public:
  using Error::Error;
};

// Timeout, dead peer or disagreement between ranks. Message: operation, tag,
// rank, peer, elapsed time. The communicator is unusable afterwards.
class CommError : public Error {
 public:
  using Error::Error;
};

// A bug of ours. Message: file:line and the values involved.
class InternalError : public Error {
 public:
  using Error::Error;
};

template <class E, class... Args>
[[noreturn]] void fail(fmt::format_string<Args...> format, Args&&... args) {
  throw E(fmt::format(format, std::forward<Args>(args)...));
}

}  // namespace thinwire

// Asserts what cannot be false; the message carries the values involved.
#define THINWIRE_ASSERT(condition, ...)                                        \
  do {                                                                         \
    if (!(condition)) {                                                        \
      ::thinwire::fail<::thinwire::InternalError>("{}:{}: {}: {}", __FILE__,   \
                                                  __LINE__, #condition,        \
                                                  ::fmt::format(__VA_ARGS__)); \
    }                                                                          \
  } while (false)
