// One rank is wrong; all ranks say so alike, and nothing is lost.
#include <ATen/ops/zeros.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <functional>
#include <limits>

#include "base/failpoint.h"
#include "dist/changed_task.h"
#include "dist/checkpoint.h"
#include "dist/testing.h"

namespace thinwire {
namespace {

using namespace trial;  // dist/testing.h
using ::testing::AllOf;
using ::testing::Each;
using ::testing::HasSubstr;

Job lora_job() {
  Job job;
  job.methods = {{"lora", {{"r", 2}}}};
  job.train = make_folder(20, false);
  job.options.batch_size = 4;
  job.options.steps = 6;
  return job;
}

constexpr double kNan = std::numeric_limits<double>::quiet_NaN();

TEST(Faults, NanOnOneRankSkipsTheStepOnAll) {
  Job job = lora_job();
  change_loss(job, 1, [](LossTerms terms, std::uint64_t step) {
    if (step == 2) terms.sum = terms.sum.mul(kNan);
    return terms;
  });
  std::vector<std::vector<float>> at_step[2];
  const auto results = run_job(job, 2);
  EXPECT_EQ(results[0].values, results[1].values);
  for (const Result& r : results) {
    ASSERT_EQ(r.seen.steps.size(), 6u);
    for (const StepRecord& s : r.seen.steps) {
      EXPECT_EQ(s.skipped, s.step == 3);
    }
    EXPECT_EQ(r.summary.skipped_steps, 1);
    ASSERT_EQ(r.seen.warnings.size(), 1u);
    EXPECT_THAT(r.seen.warnings[0],
                AllOf(HasSubstr("step 3"), HasSubstr("on rank 1"),
                      HasSubstr("lora_A")));
    for (const float v : r.values) EXPECT_TRUE(std::isfinite(v));
  }
}

// The step that was skipped moved nothing: the run is the one in which the
// learning rate of that step was without effect.
TEST(Faults, ASkippedStepMovesNeitherValuesNorState) {
  Job job = lora_job();
  std::vector<float> before, after;
  job.options.steps = 3;
  const TempFolder folder;
  job.folder = folder.path();
  job.options.checkpoint_every = 1;
  job.options.keep = 9;
  change_loss(job, 0, [](LossTerms terms, std::uint64_t step) {
    if (step == 1) terms.sum = terms.sum.mul(kNan);
    return terms;
  });
  run_job(job, 2);
  const auto file = [&](const char* step, const char* name) {
    return read_file(folder /
                     ("checkpoints/step-" + std::string(step) + "/" + name));
  };
  for (const char* name : {"delta.safetensors", "optimizer.safetensors"}) {
    EXPECT_EQ(file("1", name), file("2", name));
    EXPECT_NE(file("2", name), file("3", name));
  }
}

TEST(Faults, TooManySkipsInARowEndTheRunByName) {
  Job job = lora_job();
  job.options.max_skips = 3;
  job.options.steps = 20;
  change_loss(job, 1, [](LossTerms terms, std::uint64_t step) {
    if (step >= 4) terms.sum = terms.sum.mul(kNan);
    return terms;
  });
  EXPECT_THAT(failures(job, 2),
              Each(AllOf(type_is("error"), text_has("3 steps in a row"),
                         text_has("step 7"), text_has("on rank 1"),
                         text_has("lora_A"))));
}

TEST(Faults, AFewSkipsInARowDoNot) {
  Job job = lora_job();
  job.options.max_skips = 3;
  job.options.steps = 12;
  change_loss(job, 1, [](LossTerms terms, std::uint64_t step) {
    if (step % 3 != 0) terms.sum = terms.sum.mul(kNan);
    return terms;
  });
  EXPECT_EQ(run_job(job, 2)[0].summary.skipped_steps, 8);
}

TEST(Faults, AStepWithoutLossWeightMovesNothing) {
  Job job = lora_job();
  job.options.weight_decay = 0.5;
  change_loss(job, -1, [](LossTerms terms, std::uint64_t step) {
    if (step >= 2) terms = {at::zeros({}, at::kFloat), 0};
    return terms;
  });
  const Result all = run_job(job, 2)[0];
  EXPECT_EQ(all.summary.skipped_steps, 0);
  EXPECT_EQ(all.seen.warnings.size(), 4u);
  job.options.schedule = "constant";
  Job two = job;
  two.options.steps = 2;
  EXPECT_EQ(run_job(job, 2)[0].values, run_job(two, 2)[0].values);
}

// A rank without weight beside one with: the other's examples alone count.
TEST(Faults, ARankWithoutLossWeightDoesNotDilute) {
  Job job = lora_job();
  const Result whole = run_job(job, 1)[0];
  Job half = job;
  change_loss(half, 1, [](LossTerms terms, std::uint64_t) {
    return LossTerms{terms.sum.mul(0), 0};
  });
  half.options.steps = 1;
  const double loss = run_job(half, 2)[0].seen.steps[0].loss;
  EXPECT_EQ(loss, whole.seen.steps[0].loss);
}

TEST(Faults, AnErrorOnOneRankEndsAllWithItsLine) {
  Job job = lora_job();
  change_loss(job, 1, [](LossTerms terms, std::uint64_t step) {
    if (step == 2) fail<UsageError>("sample 1007: label 9 is out of range");
    return terms;
  });
  EXPECT_THAT(failures(job, 4), Each(AllOf(type_is("usage"), text_has("rank 1"),
                                           text_has("sample 1007: label 9"))));
}

TEST(Faults, RanksThatDisagreeAreNamedBeforeStepOne) {
  const auto edited = [](std::function<void(TrainRun&)> edit) {
    Job job = lora_job();
    job.edit = [=](TrainRun& run, int rank) {
      if (rank == 2) edit(run);
    };
    job.on_step = [](const StepRecord&, int) { FAIL() << "stepped"; };
    return failures(job, 4);
  };
  EXPECT_THAT(edited([](TrainRun& run) { run.config_text = "other"; }),
              Each(AllOf(type_is("comm"), text_has("rank 2"),
                         text_has("configuration"))));
  EXPECT_THAT(
      edited([](TrainRun& run) { run.identity.low ^= 1; }),
      Each(AllOf(type_is("comm"), text_has("rank 2"), text_has("backbone"))));
  EXPECT_THAT(
      edited([](TrainRun& run) { run.train = make_folder(20, false, 3); }),
      Each(AllOf(type_is("comm"), text_has("rank 2"),
                 text_has("training data"))));
  EXPECT_THAT(
      edited([](TrainRun& run) {
        (*run.methods)[0] = make_method("lora", {{"r", 3}});
      }),
      Each(AllOf(type_is("comm"), text_has("rank 2"), text_has("layout"))));
}

TEST(Faults, MoreRanksThanSamples) {
  Job job = lora_job();
  job.train = make_folder(3, false);
  EXPECT_THAT(failures(job, 4), Each(type_is("usage")));
}

TEST(Faults, AFullDiskAtCheckpointTimeEndsTheRunAndKeepsTheLastOne) {
  const TempFolder folder;
  Job job = lora_job();
  job.folder = folder.path();
  job.options.checkpoint_every = 2;
  Job full = job;
  full.on_step = [](const StepRecord& r, int rank) {
    if (rank == 0 && r.step == 4) set_write_faults(5, 0);
  };
  EXPECT_THAT(failures(full, 2),
              Each(AllOf(type_is("io"), text_has("checkpoint at step 4"),
                         text_has("No space left"))));
  set_write_faults(0, 0);
  const auto newest = newest_checkpoint(folder / "checkpoints", nullptr);
  ASSERT_TRUE(newest);
  EXPECT_EQ(*newest, folder / "checkpoints/step-2");
  job.resume = true;
  const auto resumed = run_job(job, 2);
  job.resume = false;
  job.folder = "";
  EXPECT_EQ(resumed[0].values, run_job(job, 2)[0].values);
}

thread_local bool stop_here = false, save_here = false;

TEST(Faults, ASignalOnOneRankStopsAllAtTheSameStep) {
  const TempFolder folder;
  Job job = lora_job();
  const auto whole = run_job(job, 2);
  job.folder = folder.path();
  job.request = [] {
    return stop_here   ? TrainRun::Request::kStop
           : save_here ? TrainRun::Request::kCheckpoint
                       : TrainRun::Request::kNone;
  };
  job.on_step = [](const StepRecord& r, int rank) {
    save_here = rank == 0 && r.step == 1;
    stop_here = rank == 1 && r.step == 3;
  };
  for (const Result& r : run_job(job, 2)) {
    EXPECT_EQ(r.summary.stop, TrainSummary::Stop::kSignal);
    EXPECT_EQ(r.summary.steps, 4);
    EXPECT_EQ(r.seen.checkpoints, (std::vector<std::int64_t>{2, 4}));
  }
  job.request = nullptr;
  job.resume = true;
  for (const Result& r : run_job(job, 2)) {
    EXPECT_EQ(r.summary.stop, TrainSummary::Stop::kDone);
    EXPECT_EQ(r.seen.steps.front().step, 5);
    EXPECT_EQ(r.values, whole[0].values);
  }
}

}  // namespace
}  // namespace thinwire
