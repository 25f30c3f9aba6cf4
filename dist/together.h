// A check that may fail on one rank alone, made so that all ranks fail alike.
#pragma once

#include <exception>
#include <optional>
#include <string>
#include <utility>

#include "base/error.h"
#include "comm/communicator.h"

namespace thinwire {

// One line, without the stack trace that LibTorch appends to its messages.
inline std::string first_line(const std::exception& e) {
  const std::string text = e.what();
  return text.substr(0, text.find('\n'));
}

// Thrown on every rank alike: nothing is left to agree on.
class AgreedError : public UsageError {
 public:
  using UsageError::UsageError;
};

// Runs f on this rank and agrees the outcome: if it threw anywhere, every rank
// throws AgreedError with the lowest failing rank's line. CommError goes
// through at once: there is nobody left to agree with.
template <class F>
auto together(Communicator& comm, F&& f) {
  std::optional<decltype(f())> result;
  std::string error;
  try {
    result.emplace(f());
  } catch (const CommError&) {
    throw;
  } catch (const AgreedError&) {
    throw;
  } catch (const std::exception& e) {
    error = first_line(e);
    if (error.empty()) error = "failed without a message";
  }
  try {
    agree_ok(comm, error);
  } catch (const UsageError& e) {
    throw AgreedError(e.what());
  }
  return std::move(*result);
}

// Leaves more time than usual for what other ranks do alone meanwhile.
class Patience {
 public:
  Patience(Communicator& comm, double more_seconds)
      : comm_(comm), before_(comm.default_timeout_seconds()) {
    comm.set_default_timeout_seconds(before_ + more_seconds);
  }
  ~Patience() { comm_.set_default_timeout_seconds(before_); }
  Patience(const Patience&) = delete;
  Patience& operator=(const Patience&) = delete;

 private:
  Communicator& comm_;
  double before_;
};

}  // namespace thinwire
