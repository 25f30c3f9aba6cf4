#include "dist/pace.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <chrono>
#include <thread>
#include <vector>

#include "dist/changed_task.h"
#include "dist/testing.h"

namespace thinwire {
namespace {

using namespace trial;  // dist/testing.h
using ::testing::AllOf;
using ::testing::HasSubstr;

std::vector<Pace> paces(std::initializer_list<double> totals) {
  std::vector<Pace> ranks;
  for (const double total : totals) ranks.push_back({{0, total, 0, 0}});
  return ranks;
}

TEST(Pace, TheStragglerIsFarBehindTheMiddleRank) {
  EXPECT_EQ(find_straggler(paces({100})), -1);
  EXPECT_EQ(find_straggler(paces({100, 149})), -1);
  EXPECT_EQ(find_straggler(paces({100, 150})), 1);
  EXPECT_EQ(find_straggler(paces({400, 100})), 0);
  EXPECT_EQ(find_straggler(paces({100, 300, 200})), 1);
  EXPECT_EQ(find_straggler(paces({100, 120, 140, 300})), 3);
  EXPECT_EQ(find_straggler(paces({300, 300, 300, 100})), -1);
}

// One line, however long the rank stays behind; another when it is behind
// again.
TEST(Pace, SaysItOnceUntilTheRankHasCaughtUp) {
  run_ranks(3, [](Communicator& comm) {
    PaceWatch watch;
    const auto twenty = [&](double slowest) {
      std::string said;
      for (int i = 0; i < PaceWatch::kSteps; ++i) {
        EXPECT_EQ(said, "");
        const bool slow = comm.rank() == 2;
        watch.count({.data_ms = slow ? slowest : 10,
                     .forward_ms = 20,
                     .backward_ms = slow ? 50.0 : 40.0,
                     .optimizer_ms = 1});
        said = watch.compare(comm);
      }
      return said;
    };
    EXPECT_EQ(twenty(10), "");
    const std::string said = twenty(150);
    EXPECT_EQ(said,
              "the others wait for rank 2: it works 221 ms a step, 3.1 times "
              "as long as the middle rank, mostly over data (150 and 10 ms)");
    EXPECT_EQ(twenty(150), "");
    EXPECT_EQ(twenty(10), "");
    EXPECT_EQ(twenty(150), said);
  });
}

TEST(Pace, ATrainingWarnsOnEveryRank) {
  Job job;
  job.methods = {{"lora", {{"r", 2}}}};
  job.train = make_folder(20, false);
  job.options.batch_size = 4;
  job.options.steps = PaceWatch::kSteps + 1;
  change_loss(job, 1, [](LossTerms terms, std::uint64_t) {
    std::this_thread::sleep_for(std::chrono::milliseconds(50));
    return terms;
  });
  for (const Result& r : run_job(job, 2)) {
    ASSERT_EQ(r.seen.warnings.size(), 1u);
    EXPECT_THAT(r.seen.warnings[0],
                AllOf(HasSubstr("step 20"), HasSubstr("wait for rank 1"),
                      HasSubstr("mostly over forward")));
  }
}

}  // namespace
}  // namespace thinwire
