// Runs that begin anew on what their first phase chose: LT-SFT against PyTorch
// (tests/golden/make_lt_sft.py), and what a rewind leaves behind.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "dist/checkpoint.h"
#include "dist/golden_testing.h"
#include "peft/tiny_config.h"
#include "tests/harness/golden.h"

namespace thinwire {
namespace {

using namespace trial;  // dist/testing.h
using ::testing::HasSubstr;

constexpr std::int64_t kFull = 3, kSteps = 7;

void train_and_compare(Communicator& comm) {
  const SafetensorsFile file(golden_path("lt_sft_bert/golden.safetensors"));
  const SafetensorsFile data(golden_path("train_bert/golden.safetensors"));
  const Config about =
      testing::read_json(testing::golden_root() / "lt_sft_bert/adapter.json");
  auto backbone = load_backbone(golden_path("train_bert"));
  const Digest identity = backbone->parameters().identity();
  auto task = make_tiny_task(false);
  task->add_head(*backbone,
                 *open_weights(golden_path("train_bert"), backbone->config()));
  std::vector<std::unique_ptr<Method>> methods;
  methods.push_back(make_method("lt_sft", about.at("config")));

  Recorder seen;
  TrainRun run{.comm = &comm,
               .backbone = backbone.get(),
               .identity = identity,
               .task = task.get(),
               .methods = &methods,
               .train = golden_folder(data),
               .eval = nullptr,
               .options = {},
               .folder = "",
               .config_text = "",
               .observer = &seen,
               .initial_delta = std::nullopt};
  run.options.steps = kSteps;
  run.options.batch_size = 12 / comm.size();
  run.options.optimizer = "sgd";
  run.options.momentum = 0.9;
  run.options.lr = 0.2;
  run.options.warmup = 1;
  run.options.clip = 0.5;
  Trained last;
  keep_after(kSteps, seen, last);
  run_training(run);

  EXPECT_EQ(seen.phases, std::vector<std::int64_t>{kFull});
  const at::Tensor losses = file.tensor("losses"), norms = file.tensor("norms");
  ASSERT_EQ(seen.steps.size(), static_cast<std::size_t>(kSteps));
  for (std::int64_t i = 0; i < kSteps; ++i) {
    const StepRecord& s = seen.steps[static_cast<std::size_t>(i)];
    const double loss = losses[i].item<double>();
    EXPECT_NEAR(s.loss, loss, 1e-5 * loss) << "step " << s.step;
    const double norm = norms[i].item<double>();
    EXPECT_NEAR(s.grad_norm, norm, 1e-4 * norm) << "step " << s.step;
  }
  expect_final(file, last);
}

TEST(Rewind, AgreesWithPyTorchOnAnyRanks) {
  for (const int ranks : {1, 2, 4}) {
    SCOPED_TRACE(ranks);
    run_ranks(ranks, [&](Communicator& comm) { train_and_compare(comm); });
  }
}

Job lottery_job(std::int64_t full, std::int64_t steps) {
  Job job;
  job.methods = {{"lt_sft", {{"density", 0.1}, {"full_steps", full}}}};
  job.train = make_folder(26, false);
  job.eval = make_folder(9, false, 2);
  job.options.steps = steps;
  job.options.batch_size = 3;
  job.options.lr = 1e-2;
  return job;
}

// The mask begins where the run began, with a rate and a search of its own.
TEST(Rewind, NothingOfTheFirstPhaseIsLeft) {
  Job job = lottery_job(4, 6);
  job.options.eval_every = 1;
  const TempFolder folder;
  job.folder = folder.path();
  const Result r = run_job(job, 2)[0];
  EXPECT_EQ(r.seen.phases, std::vector<std::int64_t>{4});
  EXPECT_EQ(r.seen.steps[4].lr, r.seen.steps[0].lr);
  EXPECT_NEAR(r.seen.steps[3].lr, 0.25 * r.seen.steps[0].lr, 1e-12);
  EXPECT_TRUE(r.seen.evals[4].best);  // whatever came before
  EXPECT_GT(r.summary.best->step, 4);
  EXPECT_EQ(r.frozen_before, r.frozen_after);
  const Delta saved = load_checkpoint(folder / "checkpoints/step-6").delta;
  EXPECT_TRUE(saved.constants().empty());
  EXPECT_EQ(saved.trainable(), r.summary.trainable_parameters);
  EXPECT_LT(r.summary.trainable_parameters,
            r.summary.total_parameters / 10 + 1);
}

// Of a model that all but stays where it is, no evaluation is better than the
// first: the search ends one after the first of the last phase.
TEST(Rewind, PatienceIsForTheLastPhase) {
  Job job = lottery_job(4, 12);
  job.options.optimizer = "sgd";
  job.options.lr = 1e-5;
  job.options.eval_every = 1;
  job.options.patience = 1;
  job.options.metric = "accuracy";
  const Result r = run_job(job, 1)[0];
  EXPECT_EQ(r.summary.steps, 6);
  EXPECT_EQ(r.summary.best->step, 5);
  EXPECT_EQ(r.summary.stop, TrainSummary::Stop::kEarly);
}

TEST(Rewind, AMaskOfWhatDidNotMoveIsRefused) {
  Job job = lottery_job(1, 3);
  job.options.warmup = 1;  // whose first step has a rate of 0
  try {
    run_job(job, 2);
    FAIL() << "accepted";
  } catch (const UsageError& e) {
    EXPECT_THAT(e.what(), HasSubstr("lt_sft: every score is zero at step 1"));
  }
}

// The mask that movement chose outlives a later phase of another method.
TEST(Rewind, ALaterPhaseOfAnotherMethodKeepsTheMask) {
  Job job = lottery_job(3, 8);
  job.methods.push_back({"fish_tuning",
                         {{"adapter", {{"method", "lora"}, {"r", 2}}},
                          {"samples", 4},
                          {"warmup_steps", 5}}});
  const TempFolder folder;
  job.folder = folder.path();
  job.options.checkpoint_every = 4;
  const Result r = run_job(job, 2)[0];
  EXPECT_EQ(r.seen.phases, (std::vector<std::int64_t>{3, 5}));
  const Delta before = load_checkpoint(folder / "checkpoints/step-4").delta;
  const Delta after = load_checkpoint(folder / "checkpoints/step-8").delta;
  int masked = 0;
  for (const DeltaEntry& e : before.entries()) {
    if (e.target.empty() || e.kind != EntryKind::kMasked) continue;
    const int same = after.find(e.name);
    ASSERT_GE(same, 0) << e.name;
    EXPECT_TRUE(
        after.entries()[static_cast<std::size_t>(same)].index.equal(e.index));
    ++masked;
  }
  EXPECT_GT(masked, 0);
  EXPECT_LT(after.trainable(), before.trainable());
}

TEST(Rewind, IsRefusedWhereItWouldLeaveNothingOrCannot) {
  try {
    run_job(lottery_job(6, 6), 2);
    FAIL() << "accepted";
  } catch (const UsageError& e) {
    EXPECT_THAT(e.what(),
                HasSubstr("lt_sft: its first phase ends at step 6, which "
                          "leaves none of the run's 6"));
  }
  Job job = lottery_job(3, 6);
  job.methods[0].second["exclude"] = {"pooler"};
  job.methods.push_back({"fish_mask",
                         {{"density", 0.02},
                          {"samples", 4},
                          {"count_head_in_budget", false},
                          {"train_head", false},
                          {"exclude", {"embeddings", "encoder"}}}});
  try {
    run_job(job, 1);
    FAIL() << "accepted";
  } catch (const UsageError& e) {
    EXPECT_THAT(e.what(), HasSubstr("written over the values of the start"));
  }
}

}  // namespace
}  // namespace thinwire
