// The suite over MPI, with as many ranks as mpirun started.
#include "comm/communicator_suite.h"

namespace thinwire {
namespace {

class MpiSuite : public testing::TestWithParam<suite::Case> {};

TEST_P(MpiSuite, Holds) {
  const auto comm = make_communicator("mpi");
  GetParam().check(*comm);
}

INSTANTIATE_TEST_SUITE_P(Mpi, MpiSuite, testing::ValuesIn(suite::kCases),
                         [](const auto& param) {
                           return std::string(param.param.name);
                         });

TEST(Mpi, AutoTakesMpiUnderMpirun) {
  const auto comm = make_communicator("auto");
  EXPECT_EQ(comm->backend(), "mpi");
}

}  // namespace
}  // namespace thinwire
