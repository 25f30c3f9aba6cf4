// The thread that moves a fleet's messages while the trainer computes: asleep
// when nothing can go, polling with short sleeps while something flies, out of
// the way once the trainer waits itself. Started when first needed.
#pragma once

#include <atomic>
#include <condition_variable>
#include <exception>
#include <mutex>
#include <thread>

#include "comm/fleet.h"

namespace thinwire {

class ProgressThread {
 public:
  explicit ProgressThread(Fleet& fleet) : fleet_(fleet) {}
  ~ProgressThread();
  ProgressThread(const ProgressThread&) = delete;
  ProgressThread& operator=(const ProgressThread&) = delete;

  // Legs have been released: the thread takes care of them. Never blocks.
  void wake();
  // The fleet is the caller's until give(). Rethrows what the thread met.
  std::unique_lock<std::mutex> take();
  void give() { taken_ = false; }

 private:
  void run();

  Fleet& fleet_;
  std::mutex fleet_mutex_;  // held for a pass, never while asleep
  std::atomic<bool> taken_ = false;
  std::exception_ptr error_;  // guarded by fleet_mutex_
  std::mutex mutex_;
  std::condition_variable awake_;
  bool awaken_ = false, stop_ = false;
  std::thread thread_;
};

}  // namespace thinwire
