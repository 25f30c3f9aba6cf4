#include "comm/progress.h"

#include <algorithm>
#include <chrono>

namespace thinwire {

ProgressThread::~ProgressThread() {
  {
    const std::lock_guard lock(mutex_);
    stop_ = true;
  }
  awake_.notify_one();
  if (thread_.joinable()) thread_.join();
}

void ProgressThread::wake() {
  {
    const std::lock_guard lock(mutex_);
    awaken_ = true;
    if (!thread_.joinable()) thread_ = std::thread([this] { run(); });
  }
  awake_.notify_one();
}

std::unique_lock<std::mutex> ProgressThread::take() {
  taken_ = true;
  std::unique_lock lock(fleet_mutex_);
  if (error_) std::rethrow_exception(error_);
  return lock;
}

void ProgressThread::run() {
  for (;;) {
    {
      std::unique_lock lock(mutex_);
      awake_.wait(lock, [&] { return awaken_ || stop_; });
      if (stop_) return;
      awaken_ = false;
    }
    auto moved = SteadyClock::now();
    SteadyClock::duration between{};  // two movements, the longest of late
    for (;;) {
      bool idle = false;
      auto now = SteadyClock::now();
      {
        const std::lock_guard lock(fleet_mutex_);
        if (taken_ || error_) break;
        try {
          if (fleet_.advance()) {
            now = SteadyClock::now();
            // Both ways of one message often end together: a maximum, that
            // fades.
            between = std::max(now - moved, between * 3 / 4);
            moved = now;
          }
          if (now - moved > std::chrono::milliseconds(1)) fleet_.look(now);
          idle = fleet_.idle();
        } catch (...) {
          error_ = std::current_exception();
          break;
        }
      }
      if (idle) break;
      if (now == moved) continue;
      // A small part of the time that a message takes here, or that nothing
      // came for: the core is left to who computes, and a message waits little
      // longer than it took.
      std::this_thread::sleep_for(std::clamp<SteadyClock::duration>(
          std::max(between, now - moved) / 8, std::chrono::microseconds(20),
          std::chrono::milliseconds(5)));
      const std::lock_guard lock(mutex_);
      if (stop_) return;
    }
  }
}

}  // namespace thinwire
