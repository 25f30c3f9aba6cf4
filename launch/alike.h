// What fails on some ranks ends the others too, before they wait for them.
#pragma once

#include <optional>
#include <string>
#include <utility>

#include "base/error.h"
#include "comm/communicator.h"

namespace thinwire {

// On ranks where nothing failed but others' inputs did: those print the line.
class FailedElsewhere : public CommError {
 public:
  using CommError::CommError;
};

// Returns if `error` is empty on every rank. Else throws: where it is set,
// itself, as UsageError or (io) IoError; elsewhere FailedElsewhere.
void fail_alike(Communicator& comm, const std::string& error, bool io);

// Runs f and returns its result, or throws on every rank if f threw UsageError
// or IoError on any. Other errors go through at once. f may itself call alike()
// over a part of the ranks.
template <class F>
auto alike(Communicator& comm, F&& f) {
  std::optional<decltype(f())> result;
  std::string error;
  bool io = false;
  try {
    result.emplace(f());
  } catch (const UsageError& e) {
    error = e.what();
  } catch (const IoError& e) {
    error = e.what();
    io = true;
  } catch (const FailedElsewhere&) {
    // The rank that failed says so now.
  }
  fail_alike(comm, error, io);
  return std::move(*result);
}

}  // namespace thinwire
