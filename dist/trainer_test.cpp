#include "dist/trainer.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>

#include "dist/checkpoint.h"
#include "dist/options.h"
#include "dist/testing.h"

namespace thinwire {
namespace {

using namespace trial;  // dist/testing.h
using ::testing::HasSubstr;

// SGD, because AdamW's first steps turn rounding into steps of length lr.
Job sgd_job(bool text) {
  Job job;
  job.text = text;
  job.model = text ? t5_config(0.1) : bert_config(0.1);
  job.methods = {{"full", Config::object()}};
  job.train = make_folder(26, text);
  job.options.steps = 5;
  job.options.optimizer = "sgd";
  job.options.momentum = 0.9;
  job.options.lr = 0.05;
  job.options.clip = 0.5;
  job.options.bucket_window = 16;
  return job;
}

std::vector<double> losses(const Result& r) {
  std::vector<double> out;
  for (const StepRecord& s : r.seen.steps) out.push_back(s.loss);
  return out;
}

// Sums are made in another order, so equal to rounding: 5 steps through 2 + 1
// layers of sums of some 20 terms each.
void expect_same_run(const Result& a, const Result& b) {
  ASSERT_EQ(a.seen.steps.size(), b.seen.steps.size());
  for (std::size_t i = 0; i < a.seen.steps.size(); ++i) {
    const StepRecord &x = a.seen.steps[i], &y = b.seen.steps[i];
    EXPECT_NEAR(x.loss, y.loss, 1e-5 * std::abs(x.loss)) << "step " << x.step;
    EXPECT_NEAR(x.grad_norm, y.grad_norm, 1e-4 * x.grad_norm);
    EXPECT_EQ(x.samples, y.samples);
    EXPECT_EQ(x.tokens, y.tokens);
    EXPECT_EQ(x.lr, y.lr);
  }
  ASSERT_EQ(a.values.size(), b.values.size());
  double difference = 0, norm = 0;
  for (std::size_t i = 0; i < a.values.size(); ++i) {
    difference += std::pow(a.values[i] - b.values[i], 2);
    norm += std::pow(a.values[i], 2);
  }
  EXPECT_LT(std::sqrt(difference), 1e-5 * std::sqrt(norm));
}

class Equivalence : public ::testing::TestWithParam<bool> {};
INSTANTIATE_TEST_SUITE_P(Tasks, Equivalence, ::testing::Bool(),
                         [](const auto& p) {
                           return p.param ? "TextToText" : "Classify";
                         });

// Dropout on, ragged targets: losses weigh by tokens of all ranks.
TEST_P(Equivalence, RanksTimesBatchIsOneRankWithTheWholeBatch) {
  Job job = sgd_job(GetParam());
  job.options.batch_size = 8;
  const Result one = run_job(job, 1)[0];
  for (const int ranks : {2, 4}) {
    job.options.batch_size = 8 / ranks;
    const auto results = run_job(job, ranks);
    expect_same_run(one, results[0]);
    for (const Result& r : results) {
      EXPECT_EQ(r.values, results[0].values) << "ranks differ in bits";
      EXPECT_EQ(losses(r), losses(results[0]));
    }
  }
}

TEST_P(Equivalence, AccumulationIsOneLargeBatch) {
  Job job = sgd_job(GetParam());
  job.options.batch_size = 8;
  const Result one = run_job(job, 1)[0];
  job.options.batch_size = 2;
  job.options.accumulation = 4;
  expect_same_run(one, run_job(job, 1)[0]);
  job.options.batch_size = 1;
  expect_same_run(one, run_job(job, 2)[0]);
}

// Masks are scored over all ranks' data: the same numbers for any of them.
TEST_P(Equivalence, MasksTakenOnTheWayAreTheSame) {
  for (const char* method : {"fish_mask", "snip_mask"}) {
    SCOPED_TRACE(method);
    Job job = sgd_job(GetParam());
    job.methods = {{method,
                    {{"density", 0.1},
                     {"samples", 10},
                     {"warmup_steps", 2},
                     {"remask_every", 2}}}};
    job.options.batch_size = 8;
    const Result one = run_job(job, 1)[0];
    EXPECT_EQ(one.seen.phases, (std::vector<std::int64_t>{2, 4}));
    job.options.batch_size = 2;
    for (const Result& r : run_job(job, 4)) {
      EXPECT_EQ(r.summary.trainable_parameters,
                one.summary.trainable_parameters);
      expect_same_run(one, r);
    }
  }
}

TEST(Trainer, LossFallsAndTheSummaryAdds) {
  Job job = sgd_job(false);
  job.methods = {{"lora", {{"r", 4}, {"target_modules", "all-linear"}}}};
  job.options = {};
  job.options.steps = 60;
  job.options.lr = 2e-2;
  job.options.batch_size = 13;
  job.options.dropout = 0;
  const Result r = run_job(job, 2)[0];
  EXPECT_LT(r.seen.steps.back().loss, 0.5 * r.seen.steps.front().loss);
  EXPECT_EQ(r.summary.steps, 60);
  EXPECT_EQ(r.summary.ranks, 2);
  EXPECT_EQ(r.summary.stop, TrainSummary::Stop::kDone);
  EXPECT_EQ(r.summary.head_parameters, 3 * 16 + 3);
  EXPECT_GT(r.summary.trainable_parameters, r.summary.head_parameters);
  EXPECT_LT(r.summary.trainable_parameters, r.summary.total_parameters);
  EXPECT_EQ(r.summary.payload_bytes_per_step,
            static_cast<std::int64_t>(4 * r.values.size()));
  EXPECT_GE(r.summary.sent_bytes, 60 * r.summary.payload_bytes_per_step);
  EXPECT_GT(r.summary.seconds_to_first_step, 0);
  EXPECT_LT(r.summary.seconds_to_first_step, r.summary.seconds);
}

TEST(Trainer, WhatIsNotInTheDeltaStaysBitIdentical) {
  Job job = sgd_job(false);
  job.methods = {{"lora", {{"r", 2}}}};
  job.options.weight_decay = 0.1;
  job.options.optimizer = "adamw";
  job.options.momentum = 0;
  for (const Result& r : run_job(job, 2)) {
    EXPECT_GT(r.frozen_after.size(), 30u);
    EXPECT_EQ(r.frozen_after, r.frozen_before);
  }
}

// Nothing moves and every step sees all samples, so that the loss changes with
// dropout's numbers alone: other ones at every step, none at rate 0.
TEST(Trainer, DropoutIsDrawnAnewAtEveryStepAndCanBeTurnedOff) {
  Job job = sgd_job(true);
  job.options.lr = 0;
  job.options.batch_size = 13;
  const auto with = losses(run_job(job, 2)[0]);
  for (std::size_t i = 1; i < with.size(); ++i) EXPECT_NE(with[i], with[0]);
  job.options.dropout = 0;
  const auto without = losses(run_job(job, 2)[0]);
  for (const double loss : without) {
    EXPECT_NEAR(loss, without[0], 1e-6 * loss);
  }
}

TEST(Trainer, EpochsBecomeSteps) {
  TrainOptions o;
  o.epochs = 3;
  o.batch_size = 4;
  o.accumulation = 2;
  EXPECT_EQ(total_steps(o, 32, 2), 6);
  EXPECT_EQ(total_steps(o, 33, 2), 7);
  o.epochs = 0.01;
  EXPECT_EQ(total_steps(o, 32, 2), 1);
  o.steps = 5;
  EXPECT_EQ(total_steps(o, 32, 2), 5);
}

TEST(Trainer, OptionsOutOfRangeAreNamed) {
  const auto refused = [](auto change, const char* key) {
    TrainOptions o;
    o.steps = 1;
    change(o);
    try {
      check_options(o);
      ADD_FAILURE() << key << " accepted";
    } catch (const UsageError& e) {
      EXPECT_THAT(e.what(), HasSubstr(key));
    }
  };
  refused([](auto& o) { o.steps = 0; }, "train.steps");
  refused([](auto& o) { o.steps = -1; }, "train.steps");
  refused([](auto& o) { o.batch_size = 0; }, "data.batch_size");
  refused([](auto& o) { o.accumulation = 0; }, "train.accumulation");
  refused([](auto& o) { o.lr = -1; }, "train.lr");
  refused([](auto& o) { o.lr = std::nan(""); }, "train.lr");
  refused([](auto& o) { o.optimizer = "adam"; }, "train.optimizer");
  refused([](auto& o) { o.beta2 = 1; }, "train.beta2");
  refused([](auto& o) { o.beta1 = -0.1; }, "train.beta1");
  refused([](auto& o) { o.epsilon = 0; }, "train.epsilon");
  refused([](auto& o) { o.nesterov = true; }, "train.nesterov");
  const auto adafactor = [&](auto change, const char* key) {
    refused(
        [&](auto& o) {
          o.optimizer = "adafactor";
          change(o);
        },
        key);
  };
  adafactor([](auto& o) { o.beta2 = 0.9; }, "train.decay_rate");
  adafactor([](auto& o) { o.clip_threshold = 0; }, "train.clip_threshold");
  adafactor([](auto& o) { o.decay_rate = 0; }, "train.decay_rate");
  adafactor([](auto& o) { o.decay_rate = -1.5; }, "train.decay_rate");
  adafactor([](auto& o) { o.epsilon1 = 0; }, "train.epsilon1");
  adafactor([](auto& o) { o.epsilon2 = -1; }, "train.epsilon2");
  adafactor([](auto& o) { o.warmup_init = true; }, "train.relative_step");
  adafactor([](auto& o) { o.relative_step = true; }, "train.lr: 1");
  refused([](auto& o) { o.schedule = "step"; }, "train.schedule");
  refused([](auto& o) { o.keep = 0; }, "train.keep");
  refused([](auto& o) { o.dropout = 1; }, "train.dropout");
}

TEST(Trainer, BestFolderAndPatienceFollowTheMetric) {
  const TempFolder folder;
  Job job = sgd_job(false);
  job.eval = make_folder(7, false, 2);
  job.options.steps = 50;
  job.options.eval_every = 2;
  job.options.patience = 3;
  job.options.lr = 0;  // nothing improves
  job.options.metric = "loss";
  job.folder = folder.path();
  for (const Result& r : run_job(job, 2)) {
    EXPECT_EQ(r.summary.stop, TrainSummary::Stop::kEarly);
    EXPECT_EQ(r.summary.steps, 8);
    ASSERT_TRUE(r.summary.best && r.summary.last && r.summary.first);
    EXPECT_EQ(r.summary.best->step, 2);
    EXPECT_EQ(r.summary.last->step, 8);
    EXPECT_FALSE(r.summary.last->best);
  }
  EXPECT_EQ(load_checkpoint(folder / "best").state.at("step"), 2);
  EXPECT_EQ(load_checkpoint(folder / "checkpoints/step-8").state.at("step"), 8);
  job.resume = true;  // it had stopped, and stays so
  EXPECT_EQ(run_job(job, 2)[0].summary.steps, 8);
}

TEST(Trainer, AnUnknownMetricIsRefusedWithTheList) {
  Job job = sgd_job(false);
  job.eval = make_folder(7, false, 2);
  job.options.metric = "accurracy";
  try {
    run_job(job, 2);
    FAIL() << "accepted";
  } catch (const UsageError& e) {
    EXPECT_THAT(e.what(), HasSubstr("accurracy"));
    EXPECT_THAT(e.what(), HasSubstr("loss"));
  }
}

TEST(Trainer, CheckpointsAreKeptByNumberAndBestStays) {
  const TempFolder folder;
  Job job = sgd_job(false);
  job.eval = make_folder(7, false, 2);
  job.options.steps = 7;
  job.options.checkpoint_every = 2;
  job.options.eval_at_start = true;
  job.folder = folder.path();
  const Result r = run_job(job, 1)[0];
  EXPECT_EQ(r.seen.checkpoints, (std::vector<std::int64_t>{2, 4, 6, 7}));
  ASSERT_EQ(r.seen.evals.size(), 2u);
  EXPECT_EQ(r.seen.evals[0].step, 0);
  EXPECT_EQ(r.seen.evals[1].step, 7);
  std::vector<std::string> names;
  for (const auto& item :
       std::filesystem::directory_iterator(folder / "checkpoints")) {
    names.push_back(item.path().filename().string());
  }
  EXPECT_THAT(names, ::testing::UnorderedElementsAre("step-6", "step-7"));
  EXPECT_TRUE(std::filesystem::exists(folder / "best/manifest.json"));
}

}  // namespace
}  // namespace thinwire
