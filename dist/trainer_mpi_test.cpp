// The trainer over real messages: whatever the number of ranks, the curve of
// one rank with the whole batch; and a checkpoint that only rank 0 can see.
#include <gtest/gtest.h>

#include <cmath>

#include "comm/mpi.h"
#include "dist/testing.h"

namespace thinwire {
namespace {

using namespace trial;  // dist/testing.h

TEST(TrainerMpi, RanksTimesBatchIsOneRankWithTheWholeBatch) {
  const auto comm = make_communicator("mpi");
  for (const bool text : {false, true}) {
    Job job;
    job.text = text;
    job.model = text ? t5_config(0.1) : bert_config(0.1);
    job.methods = {{"full", Config::object()}};
    job.train = make_folder(26, text);
    job.eval = make_folder(9, text, 2);
    job.options.steps = 4;
    job.options.optimizer = "sgd";
    job.options.momentum = 0.9;
    job.options.lr = 0.05;
    job.options.clip = 0.5;
    job.options.batch_size = 8 / comm->size();
    job.options.eval_batch_size = 2;
    const Result many = run_job(job, *comm);
    job.options.batch_size = 8;
    const auto self = make_communicator("self");
    const Result one = run_job(job, *self);
    ASSERT_EQ(many.seen.steps.size(), 4u);
    for (std::size_t i = 0; i < 4; ++i) {
      const double loss = one.seen.steps[i].loss;
      EXPECT_NEAR(many.seen.steps[i].loss, loss, 1e-5 * loss);
    }
    const double loss = one.summary.last->metrics.at("loss");
    EXPECT_NEAR(many.summary.last->metrics.at("loss"), loss, 1e-5 * loss);
    EXPECT_EQ(many.summary.sent_bytes > 0, comm->size() > 1);
  }
}

// Every rank has a folder of its own; rank 0's checkpoint reaches the others.
TEST(TrainerMpi, ResumesFromRankZerosFolderAlone) {
  const auto comm = make_communicator("mpi");
  const TempFolder folder;
  Job job;
  job.methods = {{"lora", {{"r", 2}}}};
  job.train = make_folder(26, false);
  job.options.steps = 6;
  job.options.batch_size = 2;
  job.options.checkpoint_every = 3;
  const Result whole = run_job(job, *comm);
  job.folder = folder.path();
  job.options.steps = 3;
  job.options.schedule = "constant";
  run_job(job, *comm);
  job.resume = true;
  job.options.steps = 6;
  const Result resumed = run_job(job, *comm);
  job.resume = false;
  job.folder = "";
  const Result straight = run_job(job, *comm);
  EXPECT_EQ(resumed.seen.steps.front().step, 4);
  EXPECT_EQ(resumed.values, straight.values);
  EXPECT_NE(resumed.values, whole.values);  // another schedule
}

}  // namespace
}  // namespace thinwire
