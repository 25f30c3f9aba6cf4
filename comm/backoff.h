// Rounds of polling that found nothing: first spin, then yield, then sleep for
// a small part of the time waited so far, so that a long wait costs neither the
// core nor latency.
#pragma once

#include <sched.h>

#include <algorithm>
#include <chrono>
#include <thread>

namespace thinwire {

class Backoff {
 public:
  // crowded: more ranks than cores share this host.
  explicit Backoff(bool crowded) : crowded_(crowded) {}

  // Whether clock, peers and notices are worth a look: not on the first polls.
  bool look() { return ++polls_ % (crowded_ ? 8 : 64) == 0; }
  void restart() { polls_ = 0; }

  // Yields soon even where each rank should have a core: two ranks that the
  // scheduler has put on one would else wait for each other's time slices.
  void rest(std::chrono::steady_clock::duration waited) const {
    using std::chrono::microseconds;
    if (waited < microseconds(crowded_ ? 100 : 2000)) {
      if (crowded_ || waited > microseconds(20)) sched_yield();
      return;
    }
    std::this_thread::sleep_for(std::clamp<std::chrono::steady_clock::duration>(
        waited / 64, microseconds(1), microseconds(500)));
  }

 private:
  const bool crowded_;
  unsigned polls_ = 0;
};

}  // namespace thinwire
