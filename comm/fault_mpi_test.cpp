// A rank that dies, stops, computes for ever or makes a call too many: run by
// tests/jobs/comm_fault_test.py, which sets FAULT and VICTIM, since a job that
// loses a process cannot pass.
#include <ATen/core/Tensor.h>
#include <ATen/ops/zeros.h>
#include <gtest/gtest.h>
#include <signal.h>

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <thread>

#include "base/error.h"
#include "comm/communicator.h"
#include "comm/mpi.h"
#include "comm/watch.h"

namespace thinwire {
namespace {

constexpr int kStep = 50;

void commit(const std::string& fault, Communicator& comm) {
  if (fault == "kill") raise(SIGKILL);
  if (fault == "stop") raise(SIGSTOP);
  if (fault == "extra") comm.barrier({.tag = "too many"});
  if (fault == "busy") std::this_thread::sleep_for(std::chrono::seconds(600));
}

TEST(Fault, DISABLED_SurvivorsNameTheRank) {
  const char* fault = std::getenv("FAULT");
  const char* victim = std::getenv("VICTIM");
  ASSERT_NE(fault, nullptr);
  ASSERT_NE(victim, nullptr);
  Watch watch(
      {.say =
           [](const std::string& cause, const std::string& text, bool loud) {
             std::printf("%s: %s (%s)\n", loud ? "line" : "logged",
                         text.c_str(), cause.c_str());
             std::fflush(stdout);
           },
       .deadline_seconds = 2});
  watch.make_current(true);
  join_watch(watch);
  const auto comm = make_communicator("mpi");
  comm->set_default_timeout_seconds(2);
  at::Tensor x = at::zeros({20000});
  try {
    for (int step = 1;; ++step) {
      report_step(step);
      if (step == kStep && comm->rank() == std::atoi(victim)) {
        commit(fault, *comm);
      }
      comm->all_reduce(x, ReduceOp::kSum, {.tag = "grads"});
    }
  } catch (const CommError& error) {
    std::printf("thrown: %s\n", error.what());
    std::fflush(stdout);
    watch.leave();
    // mpirun ends the others about a second after the first abnormal exit.
    std::this_thread::sleep_for(std::chrono::milliseconds(300));
    std::_Exit(1);
  }
}

}  // namespace
}  // namespace thinwire
