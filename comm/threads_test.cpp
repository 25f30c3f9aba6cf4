#include "comm/threads.h"

#include <stdexcept>
#include <tuple>

#include "comm/communicator_suite.h"

namespace thinwire {
namespace {

class ThreadsSuite
    : public testing::TestWithParam<std::tuple<suite::Case, int>> {};

TEST_P(ThreadsSuite, Holds) {
  const auto& [one_case, ranks] = GetParam();
  run_ranks(ranks, one_case.check);
}

INSTANTIATE_TEST_SUITE_P(Threads, ThreadsSuite,
                         testing::Combine(testing::ValuesIn(suite::kCases),
                                          testing::Range(1, 9)),
                         [](const auto& param) {
                           return std::string(std::get<0>(param.param).name) +
                                  "With" +
                                  std::to_string(std::get<1>(param.param));
                         });

class SelfSuite : public testing::TestWithParam<suite::Case> {};

TEST_P(SelfSuite, Holds) {
  const auto comm = make_communicator("self");
  GetParam().check(*comm);
}

INSTANTIATE_TEST_SUITE_P(Self, SelfSuite, testing::ValuesIn(suite::kCases),
                         [](const auto& param) {
                           return std::string(param.param.name);
                         });

TEST(RunRanks, RethrowsTheErrorThatCameFirst) {
  std::vector<std::string> texts(4);
  try {
    run_ranks(4, [&](Communicator& comm) {
      if (comm.rank() == 2) throw std::runtime_error("boom");
      const auto r = static_cast<std::size_t>(comm.rank());
      texts[r] = suite::comm_error([&] {
        comm.barrier();
        comm.barrier({.tag = "epoch"});
      });
      throw CommError(texts[r]);
    });
    FAIL() << "no error";
  } catch (const std::runtime_error& error) {
    EXPECT_STREQ(error.what(), "boom");
  }
  for (const std::size_t r : {0, 1, 3}) {
    EXPECT_THAT(texts[r], testing::HasSubstr("stopped: ")) << "rank " << r;
    EXPECT_THAT(texts[r], testing::HasSubstr("boom")) << "rank " << r;
    EXPECT_THAT(texts[r], testing::HasSubstr("rank 2")) << "rank " << r;
  }
}

TEST(RunRanks, ARankThatReturnsEarlyIsNamed) {
  try {
    run_ranks(3, [](Communicator& comm) {
      if (comm.rank() != 1) comm.barrier({.tag = "epoch"});
    });
    FAIL() << "no error";
  } catch (const CommError& error) {
    EXPECT_THAT(error.what(), testing::HasSubstr("barrier 'epoch': "));
    EXPECT_THAT(error.what(), testing::HasSubstr("but rank 1 has left"));
  }
}

TEST(RunRanks, AnErrorEndsTheWaitsOfSplitGroups) {
  try {
    run_ranks(2, [](Communicator& comm) {
      const auto group = comm.split(0, comm.rank());
      if (comm.rank() == 1) throw std::runtime_error("boom");
      group->barrier();
    });
    FAIL() << "no error";
  } catch (const CommError& error) {
    EXPECT_THAT(error.what(), testing::HasSubstr("rank 1 stopped: "));
  } catch (const std::runtime_error& error) {
    EXPECT_STREQ(error.what(), "boom");
  }
}

TEST(MakeCommunicator, NamesTheBackends) {
  try {
    make_communicator("gloo");
    FAIL() << "no error";
  } catch (const UsageError& error) {
    EXPECT_STREQ(error.what(),
                 "backend 'gloo' is unknown; choose one of: auto, mpi, self");
  }
}

TEST(Communicator, RefusesTensorsItCannotTake) {
  const auto comm = make_communicator("self");
  at::Tensor ints = at::empty({3}, at::TensorOptions().dtype(at::kInt));
  EXPECT_THROW(comm->all_reduce(ints, ReduceOp::kSum), UsageError);
  at::Tensor strided =
      at::empty({4, 4}, at::TensorOptions().dtype(at::kFloat)).t();
  EXPECT_THROW(comm->all_reduce(strided, ReduceOp::kSum), UsageError);
  EXPECT_THROW(comm->set_default_timeout_seconds(0), UsageError);
}

}  // namespace
}  // namespace thinwire
