// Leaves in memory of their own, as on a GPU, the delta's vector in the CPU's:
// the same bits as when they are one.
#include <gtest/gtest.h>

#include "dist/testing.h"

namespace thinwire {
namespace {

using namespace trial;  // dist/testing.h

Job small_job(const char* method, Config config, bool text) {
  Job job;
  job.text = text;
  job.model = text ? t5_config(0.1) : bert_config(0.1);
  job.methods = {{method, std::move(config)}};
  job.train = make_folder(26, text);
  job.eval = make_folder(10, text, 2);
  job.options.steps = 6;
  job.options.batch_size = 4;
  job.options.lr = 1e-2;
  job.options.weight_decay = 0.01;
  return job;
}

void expect_same_bits(Job job, int ranks) {
  // Sums go out in one piece and order when backward is done.
  job.options.exchange.overlap = false;
  const auto together = run_job(job, ranks);
  job.edit = [](TrainRun& run, int) { run.apart = true; };
  const auto apart = run_job(job, ranks);
  for (std::size_t r = 0; r < together.size(); ++r) {
    const Result &a = together[r], &b = apart[r];
    EXPECT_EQ(a.values, b.values);
    ASSERT_EQ(a.seen.steps.size(), b.seen.steps.size());
    for (std::size_t i = 0; i < a.seen.steps.size(); ++i) {
      EXPECT_EQ(a.seen.steps[i].loss, b.seen.steps[i].loss) << "step " << i + 1;
      EXPECT_EQ(a.seen.steps[i].grad_norm, b.seen.steps[i].grad_norm);
    }
    ASSERT_FALSE(a.seen.evals.empty());
    EXPECT_EQ(a.seen.evals.back().metrics, b.seen.evals.back().metrics);
    EXPECT_EQ(a.frozen_after, b.frozen_after);
  }
}

const Config kMask{{"density", 0.1}, {"samples", 3}};

TEST(LeavesApart, DenseEntriesTrainAlike) {
  for (const int ranks : {1, 2}) {
    expect_same_bits(small_job("lora", {{"r", 3}}, true), ranks);
  }
}

TEST(LeavesApart, MasksTrainAlike) {
  for (const bool text : {false, true}) {
    for (const int ranks : {1, 2}) {
      expect_same_bits(small_job("fish_mask", kMask, text), ranks);
    }
  }
}

TEST(LeavesApart, MicroBatchesAddUpAlike) {
  Job job = small_job("lora", {{"r", 3}}, false);
  job.options.deterministic = true;
  job.options.virtual_shards = 4;
  for (const int ranks : {1, 2}) expect_same_bits(job, ranks);
}

TEST(LeavesApart, LocalStepsMergeAlike) {
  Job job = small_job("fish_mask", kMask, false);
  job.options.exchange.sync_every = 3;
  job.options.eval_every = 2;
  expect_same_bits(job, 2);
}

TEST(LeavesApart, PhasesFollowEachOtherAlike) {
  Config config = kMask;
  config["remask_every"] = 3;
  expect_same_bits(small_job("fish_mask", config, false), 2);
}

TEST(LeavesApart, EveryOptimizerMovesThem) {
  for (const char* optimizer : {"sgd", "lion", "adafactor"}) {
    Job job = small_job("fish_mask", kMask, false);
    job.options.optimizer = optimizer;
    expect_same_bits(job, 1);
  }
}

}  // namespace
}  // namespace thinwire
