#include "launch/signals.h"

#include <signal.h>

#include <atomic>

namespace thinwire {
namespace {

std::atomic<bool> stop_asked{false};
std::atomic<bool> checkpoint_asked{false};
static_assert(std::atomic<bool>::is_always_lock_free);

void on_signal(int number) {
  (number == SIGTERM ? stop_asked : checkpoint_asked) = true;
}

}  // namespace

void install_signal_handlers() {
  struct sigaction action {};
  action.sa_handler = &on_signal;
  sigemptyset(&action.sa_mask);
  action.sa_flags = SA_RESTART;
  sigaction(SIGUSR1, &action, nullptr);
  action.sa_flags = static_cast<int>(SA_RESTART | SA_RESETHAND);
  sigaction(SIGTERM, &action, nullptr);
}

TrainRun::Request take_request() {
  if (stop_asked) return TrainRun::Request::kStop;
  if (checkpoint_asked.exchange(false)) return TrainRun::Request::kCheckpoint;
  return TrainRun::Request::kNone;
}

}  // namespace thinwire
