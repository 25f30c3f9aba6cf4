// Whole runs with train.deterministic: the same bits whatever the ranks.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "dist/testing.h"

namespace thinwire {
namespace {

using namespace trial;  // dist/testing.h

// One global batch of 16, whatever the number of ranks.
Job job_for(bool text, const char* method, int ranks) {
  Job job;
  job.text = text;
  job.model = text ? t5_config(0.1) : bert_config(0.1);
  Config config = Config::object();
  if (std::string_view(method).ends_with("_mask")) {
    config["density"] = 0.05;
    config["samples"] = 7;
  }
  job.methods = {{method, config}};
  if (!text) job.methods.push_back({"head", Config::object()});
  job.train = make_folder(41, text);
  job.eval = make_folder(9, text, 2);
  job.options.deterministic = true;
  job.options.steps = 5;
  job.options.lr = 0.02;
  job.options.clip = 0.5;
  job.options.eval_every = 2;
  job.options.batch_size = 16 / ranks;
  return job;
}

void expect_same(const Result& a, const Result& b, int ranks) {
  ASSERT_EQ(a.seen.steps.size(), b.seen.steps.size());
  for (std::size_t i = 0; i < a.seen.steps.size(); ++i) {
    EXPECT_EQ(a.seen.steps[i].loss, b.seen.steps[i].loss)
        << ranks << " ranks, step " << i;
    EXPECT_EQ(a.seen.steps[i].grad_norm, b.seen.steps[i].grad_norm);
  }
  EXPECT_TRUE(a.values == b.values) << ranks << " ranks";
  ASSERT_EQ(a.seen.evals.size(), b.seen.evals.size());
  for (std::size_t i = 0; i < a.seen.evals.size(); ++i) {
    EXPECT_EQ(a.seen.evals[i].metrics, b.seen.evals[i].metrics)
        << ranks << " ranks, evaluation " << i;
  }
}

TEST(Deterministic, SameBitsForEveryNumberOfRanks) {
  for (const bool text : {false, true}) {
    for (const char* method : {"lora", "fish_mask", "snip_mask"}) {
      SCOPED_TRACE(testing::Message() << method << (text ? ", T5" : ", BERT"));
      const Result one = run_job(job_for(text, method, 1), 1)[0];
      EXPECT_NE(one.seen.steps.front().loss, one.seen.steps.back().loss);
      for (const int ranks : {2, 4, 8}) {
        const auto many = run_job(job_for(text, method, ranks), ranks);
        for (const Result& r : many) expect_same(one, r, ranks);
      }
    }
  }
}

TEST(Deterministic, WithoutItRanksDoNotGiveTheSameBits) {
  // Else the test above shows nothing.
  Job job = job_for(true, "lora", 1);
  job.options.deterministic = false;
  const Result one = run_job(job, 1)[0];
  job.options.batch_size = 2;
  EXPECT_FALSE(one.values == run_job(job, 8)[0].values);
}

TEST(Deterministic, AccumulationAndRanksAreTheSame) {
  const Result one = run_job(job_for(false, "lora", 1), 1)[0];
  Job job = job_for(false, "lora", 2);
  job.options.batch_size = 2;
  job.options.accumulation = 4;
  job.options.eval_batch_size = 2;  // else: one shard
  expect_same(one, run_job(job, 2)[0], 2);
}

TEST(Deterministic, ResumedWithOtherRanks) {
  const Result whole = run_job(job_for(true, "lora", 1), 1)[0];
  const TempFolder folder;
  Job first = job_for(true, "lora", 4);
  first.folder = folder.path();
  first.options.checkpoint_every = 3;
  first.options.keep = 5;
  run_job(first, 4);
  std::filesystem::remove_all(folder / "checkpoints/step-5");
  Job rest = job_for(true, "lora", 2);
  rest.folder = folder.path();
  rest.resume = true;
  const auto resumed = run_job(rest, 2);
  ASSERT_EQ(resumed[0].seen.steps.size(), 2u);
  EXPECT_EQ(resumed[0].seen.steps[0].step, 4);
  EXPECT_EQ(resumed[0].seen.steps[1].loss, whole.seen.steps[4].loss);
  EXPECT_TRUE(resumed[1].values == whole.values);
}

}  // namespace
}  // namespace thinwire
