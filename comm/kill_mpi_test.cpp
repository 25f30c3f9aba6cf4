// A rank that dies: run by tests/jobs/comm_kill_test.py, which sets VICTIM,
// since a job that loses a process cannot pass.
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

namespace thinwire {
namespace {

TEST(Kill, DISABLED_SurvivorsNameTheDeadRank) {
  const char* victim = std::getenv("VICTIM");
  ASSERT_NE(victim, nullptr);
  const auto comm = make_communicator("mpi");
  at::Tensor x = at::zeros({20000});
  try {
    for (int step = 0; step < 1000000; ++step) {
      if (step == 50 && comm->rank() == std::atoi(victim)) raise(SIGKILL);
      comm->all_reduce(x, ReduceOp::kSum, {.tag = "grads"});
    }
  } catch (const CommError& error) {
    std::printf("survivor %d: %s\n", comm->rank(), error.what());
    std::fflush(stdout);
    // mpirun ends the others about a second after the first abnormal exit.
    std::this_thread::sleep_for(std::chrono::milliseconds(300));
    std::_Exit(1);
  }
}

}  // namespace
}  // namespace thinwire
