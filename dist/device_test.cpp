// Leaves in memory of their own, as on a GPU, the delta's vector in the CPU's:
// the same bits as when they are one.
#include <gtest/gtest.h>

#include <string>

#include "dist/testing.h"
#include "ops/fake_device.h"

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

// A whole run off the CPU: loss, values and evaluation are the CPU's, up to the
// order of sums.
TEST(OffTheCpu, ARunHasTheNumbersOfTheCpu) {
  for (const bool text : {false, true}) {
    for (const std::string method : {"lora", "mask", "masks"}) {
      Job job = method == "lora" ? small_job("lora", {{"r", 3}}, text)
                                 : small_job("fish_mask", kMask, text);
      job.options.optimizer = "sgd";
      job.options.momentum = 0.9;
      job.options.checkpoint_blocks = method == "mask";
      if (method == "masks") job.methods[0].second["remask_every"] = 3;
      const auto here = run_job(job, 2);
      job.edit = [](TrainRun& run, int) {
        run.backbone->parameters().move_to(fake::fake_device());
      };
      const auto there = run_job(job, 2);
      EXPECT_EQ(there[0].values, there[1].values) << "ranks differ in bits";
      const Result &a = here[0], &b = there[0];
      ASSERT_EQ(a.values.size(), b.values.size());
      for (std::size_t i = 0; i < a.values.size(); ++i) {
        ASSERT_NEAR(a.values[i], b.values[i], 1e-4);
      }
      ASSERT_EQ(a.seen.steps.size(), b.seen.steps.size());
      for (std::size_t i = 0; i < a.seen.steps.size(); ++i) {
        const double loss = a.seen.steps[i].loss;
        EXPECT_NEAR(loss, b.seen.steps[i].loss, 2e-5 * loss) << i;
      }
      ASSERT_FALSE(b.seen.evals.empty());
      for (const auto& [name, value] : a.seen.evals.back().metrics) {
        if (name != "loss") continue;
        EXPECT_NEAR(value, b.seen.evals.back().metrics.at(name), 1e-4 * value);
      }
      // What an earlier mask trained stays in the weights.
      EXPECT_EQ(b.frozen_after == b.frozen_before, method != "masks");
    }
  }
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
