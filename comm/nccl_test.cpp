// NcclGroup and the communicator over it, against the fake of comm/fake_nccl.h.
#include "comm/nccl.h"

#include <latch>

#include "comm/fake_ranks.h"

namespace thinwire {
namespace {

using fake::Job;
using fake::Rank;
using testing::AllOf;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::Not;

std::unique_ptr<Communicator> make(Rank& rank, NcclOptions options = {}) {
  return make_nccl_communicator(rank.cuda, rank.nccl,
                                rank.comm.split(0, rank.comm.rank()), 0,
                                std::move(options));
}

std::vector<float> coded(int rank, std::size_t n = 1000) {
  std::vector<float> data(n);
  for (std::size_t i = 0; i < n; ++i) {
    data[i] = static_cast<float>(static_cast<int>(i % 17) * (rank + 1));
  }
  return data;
}

void sum_once(Communicator& comm, std::size_t n = 1000) {
  auto data = coded(comm.rank(), n);
  at::Tensor x = fake::device_tensor(data, at::kFloat);
  comm.all_reduce(x, ReduceOp::kSum, {.tag = "x"});
}

TEST(Nccl, ReducesAndBroadcastsDeviceTensors) {
  for (const int ranks : {1, 2, 3, 5}) {
    Job job{.ranks = ranks, .wires = {}};
    const auto outcomes = job.run([&](Rank& rank) {
      const auto comm = make(rank);
      EXPECT_EQ(comm->backend(), "nccl");
      const int p = comm->size();
      auto sums = coded(comm->rank());
      at::Tensor x = fake::device_tensor(sums, at::kFloat);
      comm->all_reduce(x, ReduceOp::kSum, {.tag = "x"});
      for (std::size_t i = 0; i < sums.size(); ++i) {
        ASSERT_EQ(sums[i], static_cast<int>(i % 17) * p * (p + 1) / 2);
      }
      std::vector<std::int64_t> most{comm->rank(), -comm->rank()};
      at::Tensor y = fake::device_tensor(most, at::kLong);
      comm->all_reduce(y, ReduceOp::kMax, {.tag = "y"});
      EXPECT_THAT(most, ElementsAre(p - 1, 0));
      std::vector<double> least{-1.5 * comm->rank()};
      at::Tensor w = fake::device_tensor(least, at::kDouble);
      comm->all_reduce(w, ReduceOp::kMin, {.tag = "w"});
      EXPECT_THAT(least, ElementsAre(-1.5 * (p - 1)));
      auto last = coded(comm->rank(), 3);
      at::Tensor z = fake::device_tensor(last, at::kFloat);
      comm->broadcast(z, p - 1, {.tag = "z"});
      EXPECT_THAT(last, testing::ElementsAreArray(coded(p - 1, 3)));

      // The host's tensors and the rest go as ever.
      std::vector<float> here{1};
      at::Tensor h = at::from_blob(here.data(), {1});
      comm->all_reduce(h, ReduceOp::kSum);
      EXPECT_EQ(here[0], static_cast<float>(p));
      comm->barrier();
      const auto pair = comm->split(comm->rank() / 2, 0);
      sum_once(*pair);
    });
    for (int r = 0; r < ranks; ++r) {
      const auto& outcome = outcomes[static_cast<std::size_t>(r)];
      EXPECT_EQ(outcome.error, "");
      fake::expect_clean(outcome);
      EXPECT_EQ(outcome.count("ncclCommAbort"), 0);
      EXPECT_EQ(outcome.count("ncclCommDestroy"), 2);
      // One id for the group by its rank 0, and one for the pair by its own.
      EXPECT_EQ(outcome.count("ncclGetUniqueId"), (r == 0) + (r % 2 == 0));
    }
  }
}

TEST(Nccl, FollowsTheComputeStreamAndIsFollowedByIt) {
  Job job{.ranks = 1, .wires = {}};
  const auto outcome = job.run([](Rank& rank) {
    const auto comm = make(rank);
    std::vector<float> data{0}, after{0};
    at::Tensor x = fake::device_tensor(data, at::kFloat);
    rank.gpu.compute([&] { data[0] = 7; });
    comm->all_reduce(x, ReduceOp::kSum, {.tag = "x"});
    EXPECT_EQ(data[0], 7);
  })[0];
  EXPECT_THAT(
      outcome.history,
      ElementsAre("cudaSetDevice", "cudaGetDeviceProperties",
                  "cudaStreamCreate", "ncclGetUniqueId", "cudaSetDevice",
                  "ncclCommInitRankConfig", "cudaEventCreate",
                  "cudaEventCreate", "cudaEventRecord e4 compute",
                  "cudaStreamWaitEvent side e4", "cudaSetDevice",
                  "ncclAllReduce side 1", "cudaEventRecord e5 side",
                  "cudaStreamWaitEvent compute e5", "cudaEventDestroy",
                  "cudaEventDestroy", "ncclCommFinalize", "ncclCommDestroy",
                  "cudaStreamDestroy"));
}

TEST(Nccl, RefusesTwoRanksOnOneGpu) {
  Job job{.ranks = 3, .one_gpu = true, .wires = {}};
  for (const auto& outcome : job.run([](Rank& rank) { make(rank); })) {
    EXPECT_THAT(outcome.error, HasSubstr("ranks 0 and 1 have the same GPU"));
    EXPECT_THAT(outcome.error, HasSubstr("comm.backend to mpi"));
    EXPECT_EQ(outcome.count("ncclCommInitRankConfig"), 0);
    fake::expect_clean(outcome);
  }
}

TEST(Nccl, RefusesWhatIsNotOnItsGpuInOnePiece) {
  Job job{.ranks = 1, .wires = {}};
  const auto outcome = job.run([](Rank& rank) {
    const auto comm = make(rank);
    auto data = coded(0, 4);
    at::Tensor x = fake::device_tensor(data, at::kFloat, 2);
    EXPECT_THROW(comm->all_reduce(x, ReduceOp::kSum), UsageError);
    at::Tensor y = fake::device_tensor(data, at::kInt);
    EXPECT_THROW(comm->all_reduce(y, ReduceOp::kSum), UsageError);
    at::Tensor z = fake::device_tensor(data, at::kFloat);
    EXPECT_THROW(comm->broadcast(z, 1), UsageError);
    sum_once(*comm);  // it goes on
  })[0];
  EXPECT_EQ(outcome.error, "");
  fake::expect_clean(outcome);
}

TEST(Nccl, EndsWhenTheCommunicatorDoesNotCome) {
  Job job{.ranks = 2, .timeout_seconds = 0.05, .wires = {}};
  for (const auto& outcome : job.run([](Rank& rank) {
         rank.gpu.init_polls = -1;
         make(rank);
       })) {
    EXPECT_THAT(outcome.error,
                AllOf(HasSubstr("nccl init 'communicator' on rank 0 of 2"),
                      HasSubstr("on rank 1 of 2"), HasSubstr("GPU 0)"),
                      HasSubstr("timed out after 0.1 s")));
    EXPECT_EQ(outcome.count("ncclCommAbort"), 1);
    fake::expect_clean(outcome);
  }
}

TEST(Nccl, AllRanksHearWhyOneCannotBegin) {
  for (const std::string call :
       {"cudaStreamCreate", "ncclCommInitRankConfig"}) {
    Job job{.ranks = 3, .wires = {}};
    // The others' NCCL would wait for it: nothing but its word tells them.
    job.wires.hears_aborts = false;
    job.timeout_seconds = 0.05;
    for (const auto& outcome : job.run([&](Rank& rank) {
           if (rank.comm.rank() == 1) {
             rank.gpu.fail(call, 1,
                           call.starts_with("cuda") ? fake::kBadAddress
                                                    : fake::kSystemError);
           }
           make(rank);
         })) {
      EXPECT_THAT(outcome.error, HasSubstr(call + ": "));
      EXPECT_THAT(outcome.error, HasSubstr("rank 1"));
      fake::expect_clean(outcome);
    }
  }
}

TEST(Nccl, AllRanksHearThatThereIsNoId) {
  Job job{.ranks = 2, .wires = {}};
  for (const auto& outcome : job.run([](Rank& rank) {
         rank.gpu.fail("ncclGetUniqueId", 1, fake::kSystemError);
         make(rank);
       })) {
    EXPECT_THAT(outcome.error,
                HasSubstr("rank 0: ncclGetUniqueId: unhandled system error"));
    EXPECT_EQ(outcome.count("ncclCommInitRankConfig"), 0);
  }
}

TEST(Nccl, FindsAnErrorOfAnOperationInFlight) {
  Job job{.ranks = 2, .wires = {}};
  const auto outcomes = job.run([](Rank& rank) {
    const auto comm = make(rank);
    if (rank.comm.rank() == 1) rank.gpu.fails_asynchronously_at = 2;
    sum_once(*comm);
    sum_once(*comm);
  });
  for (std::size_t r = 0; r < 2; ++r) {
    EXPECT_THAT(outcomes[r].error,
                AllOf(HasSubstr("nccl all_reduce 'x' on rank " +
                                std::to_string(r) + " of 2"),
                      HasSubstr("remote process exited")));
    EXPECT_EQ(outcomes[r].count("ncclCommAbort"), 1);
    EXPECT_EQ(outcomes[r].count("ncclCommFinalize"), 0);
    fake::expect_clean(outcomes[r]);
  }
}

TEST(Nccl, EndsWhenAnOperationDoesNot) {
  Job job{.ranks = 2, .timeout_seconds = 0.1, .wires = {}};
  job.wires.stuck = true;
  job.wires.hears_aborts = false;
  for (const auto& outcome : job.run([](Rank& rank) {
         const auto comm = make(rank);
         try {
           sum_once(*comm);
         } catch (const CommError&) {
           // The first error stays, and nothing is aborted twice.
           EXPECT_THROW(sum_once(*comm), CommError);
           throw;
         }
       })) {
    EXPECT_THAT(outcome.error, AllOf(HasSubstr("timed out after 0.1 s"),
                                     HasSubstr("all ranks answer")));
    EXPECT_EQ(outcome.count("ncclCommAbort"), 1);
    fake::expect_clean(outcome);
  }
}

TEST(Nccl, NamesTheRankThatDoesNotCome) {
  Job job{.ranks = 2, .timeout_seconds = 0.1, .wires = {}};
  std::latch over(1);
  const auto outcomes = job.run([&](Rank& rank) {
    const auto comm = make(rank);
    if (rank.comm.rank() == 1) return over.wait();
    try {
      sum_once(*comm);
    } catch (const CommError&) {
      over.count_down();
      throw;
    }
  });
  EXPECT_THAT(outcomes[0].error, HasSubstr("rank 0 waited for rank 1"));
  EXPECT_EQ(outcomes[0].count("ncclAllReduce"), 0);
  EXPECT_EQ(outcomes[0].count("ncclCommAbort"), 1);
}

TEST(Nccl, DifferentCallsEndBeforeAnythingStarts) {
  Job job{.ranks = 3, .wires = {}};
  for (const auto& outcome : job.run([](Rank& rank) {
         const auto comm = make(rank);
         sum_once(*comm, rank.comm.rank() == 2 ? 999 : 1000);
       })) {
    EXPECT_THAT(outcome.error,
                AllOf(HasSubstr("rank 2 with 'call 0: all_reduce sum of 999"),
                      HasSubstr("2 of 3 ranks")));
    EXPECT_EQ(outcome.count("ncclAllReduce"), 0);
    fake::expect_clean(outcome);
  }
}

// Their NCCL would wait for the deadline; the host knows better.
TEST(Nccl, RanksInNcclHearOfOneThatHasFailed) {
  for (const std::string call : {"ncclAllReduce", "cudaEventRecord"}) {
    Job job{.ranks = 3, .wires = {}};
    job.wires.hears_aborts = false;
    const bool cuda = call.starts_with("cuda");
    const int fault = cuda ? fake::kBadAddress : fake::kSystemError;
    const auto* cause =
        cuda ? "an illegal memory access" : "unhandled system error";
    const auto outcomes = job.run([&](Rank& rank) {
      const auto comm = make(rank);
      sum_once(*comm);
      if (rank.comm.rank() != 1) return sum_once(*comm);
      rank.gpu.fail(call, 1, fault);
      sum_once(*comm);
    });
    EXPECT_THAT(outcomes[1].error, HasSubstr(cause));
    for (const std::size_t r : {0u, 2u}) {
      EXPECT_THAT(outcomes[r].error,
                  AllOf(HasSubstr("rank 1 stopped: nccl all_reduce 'x' on "
                                  "rank 1 of 3"),
                        HasSubstr(cause)));
      fake::expect_clean(outcomes[r]);
    }
  }
}

TEST(Nccl, DoesNotWaitForeverForAnAbort) {
  // Outlive the test, as does the thread that aborts.
  auto* wires = new fake::Wires;
  auto* release = new std::latch(1);
  fake::Gpu* gpu = nullptr;
  run_ranks(1, [&](Communicator& comm) {
    auto* rank = new Rank(*wires, 0, comm);
    gpu = &rank->gpu;
    wires->stuck = true;
    comm.set_default_timeout_seconds(0.05);
    rank->gpu.while_aborting = [release] { release->wait(); };
    const auto nccl = make(*rank, {.grace_seconds = 0.05});
    try {
      sum_once(*nccl);
      ADD_FAILURE() << "no error";
    } catch (const CommError& error) {
      EXPECT_THAT(error.what(),
                  HasSubstr("ncclCommAbort did not return within 0.05 s"));
    }
  });
  release->count_down();
  gpu->await("ncclCommAbort", 1);
}

TEST(Nccl, AFarewellThatFailsIsAnAbort) {
  Job job{.ranks = 1, .wires = {}};
  const auto outcome = job.run([](Rank& rank) {
    const auto comm = make(rank);
    rank.gpu.fail("ncclCommFinalize", 1, fake::kSystemError);
  })[0];
  EXPECT_EQ(outcome.error, "");
  EXPECT_EQ(outcome.count("ncclCommAbort"), 1);
  EXPECT_EQ(outcome.count("ncclCommDestroy"), 0);
  fake::expect_clean(outcome);
}

TEST(Nccl, AFarewellThatNobodyAnswersIsAnAbort) {
  Job job{.ranks = 2, .wires = {}};
  job.wires.hears_aborts = false;
  std::latch over(1);
  const auto outcomes = job.run([&](Rank& rank) {
    auto comm = make(rank, {.grace_seconds = 0.05});
    if (rank.comm.rank() == 1) over.wait();
    comm.reset();
    if (rank.comm.rank() == 0) over.count_down();
  });
  EXPECT_EQ(outcomes[0].count("ncclCommAbort"), 1);
  fake::expect_clean(outcomes[0]);
}

TEST(Nccl, ARankThatUnwindsAborts) {
  Job job{.ranks = 2, .wires = {}};
  const auto outcomes = job.run([](Rank& rank) {
    const auto comm = make(rank);
    if (rank.comm.rank() == 0) fail<UsageError>("something else");
    sum_once(*comm);
  });
  EXPECT_EQ(outcomes[0].error, "something else");
  EXPECT_EQ(outcomes[0].count("ncclCommAbort"), 1);
  EXPECT_EQ(outcomes[0].count("ncclCommFinalize"), 0);
  EXPECT_THAT(outcomes[1].error, HasSubstr("rank 0"));
  for (const auto& outcome : outcomes) fake::expect_clean(outcome);
}

TEST(Nccl, EveryCallMayFail) {
  for (const int ranks : {1, 2}) {
    fake::sweep_faults(ranks, [](Rank& rank) {
      const auto comm = make(rank);
      sum_once(*comm);
      auto data = coded(0, 8);
      at::Tensor x = fake::device_tensor(data, at::kFloat);
      comm->broadcast(x, 0, {.tag = "b"});
      rank.comm.barrier();  // a failure after that is felt here
    });
  }
}

}  // namespace
}  // namespace thinwire
