#include "base/failpoint.h"

#include <atomic>
#include <cerrno>
#include <csignal>
#include <cstdlib>

namespace thinwire {
namespace {

std::int64_t from_environment(const char* name) {
  const char* text = std::getenv(name);
  return text == nullptr ? 0 : std::atoll(text);
}

struct Faults {
  std::atomic<std::int64_t> fail_at{from_environment("THINWIRE_FAIL_WRITE")};
  std::atomic<std::int64_t> kill_at{from_environment("THINWIRE_KILL_WRITE")};
  std::atomic<std::int64_t> steps{0};
};

Faults& faults() {
  static Faults instance;
  return instance;
}

}  // namespace

bool write_fails() noexcept {
  Faults& f = faults();
  const std::int64_t step = ++f.steps;
  if (step == f.kill_at) std::raise(SIGKILL);
  const std::int64_t fail_at = f.fail_at;
  if (fail_at == 0 || step < fail_at) return false;
  errno = ENOSPC;
  return true;
}

void set_write_faults(std::int64_t fail_at, std::int64_t kill_at) {
  Faults& f = faults();
  f.fail_at = fail_at;
  f.kill_at = kill_at;
  f.steps = 0;
}

std::int64_t write_steps() noexcept { return faults().steps; }

}  // namespace thinwire
