// The engine over MPI, with as many ranks as mpirun started.
#include <cstdlib>

#include "comm/engine_suite.h"

namespace thinwire {
namespace {

class EngineMpi : public testing::TestWithParam<engine_suite::Case> {};

TEST_P(EngineMpi, Holds) {
  const auto comm = make_communicator("mpi");
  GetParam().check(*comm);
}

INSTANTIATE_TEST_SUITE_P(Mpi, EngineMpi,
                         testing::ValuesIn(engine_suite::kCases),
                         [](const auto& param) {
                           return std::string(param.param.name);
                         });

TEST(EngineMpi, SmallTensorsUnderLoad) {
  const auto comm = make_communicator("mpi");
  const bool is_long = std::getenv("THINWIRE_LONG") != nullptr;
  engine_suite::small_tensors_under_load(*comm, is_long ? 10'000 : 200);
}

// The guard goes before the library's collectives.
TEST(EngineMpi, TheLibraryReducesBuckets) {
  const auto comm = make_communicator("mpi");
  at::Tensor x = engine_suite::floats(50'000);
  const auto reducer = make_reducer(*comm, x,
                                    {.buckets = {{20'000, 30'000}, {0, 20'000}},
                                     .algorithm = Algorithm::kMpi});
  for (std::uint64_t step = 0; step < 3; ++step) {
    engine_suite::fill_coded(x, comm->rank());
    Guard guard{.weight = 1};
    reducer->begin(step);
    reducer->ready(1);
    reducer->finish(guard);
    EXPECT_EQ(guard.weight, comm->size());
    EXPECT_TRUE(engine_suite::is_coded_sum(x, comm->size()));
  }
}

}  // namespace
}  // namespace thinwire
