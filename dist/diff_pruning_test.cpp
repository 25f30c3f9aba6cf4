// Diff pruning in whole runs: against PyTorch (tests/golden/
// make_diff_pruning.py), its penalty whatever cuts the batch, resumed around
// the cut.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "dist/checkpoint.h"
#include "dist/golden_testing.h"
#include "tests/harness/golden.h"

namespace thinwire {
namespace {

using namespace trial;  // dist/testing.h
using ::testing::HasSubstr;

constexpr std::int64_t kCut = 5, kSteps = 9;

void train_and_compare(Communicator& comm, std::int64_t micro_batches) {
  const SafetensorsFile file(
      golden_path("diff_pruning_train/golden.safetensors"));
  const SafetensorsFile data(golden_path("train_bert/golden.safetensors"));
  auto backbone = load_backbone(golden_path("train_bert"));
  const Digest identity = backbone->parameters().identity();
  auto task = make_tiny_task(false);
  task->add_head(*backbone,
                 *open_weights(golden_path("train_bert"), backbone->config()));
  std::vector<std::unique_ptr<Method>> methods;
  methods.push_back(make_method(
      "diff_pruning", {{"density", 0.04},
                       {"gate_steps", kCut},
                       {"l0_penalty", 0.05},
                       {"gate_start", 0.6},
                       {"diff_lr_factor", 0.5},
                       {"gate_lr_factor", 20},
                       {"exclude", {"embeddings", "layer.0.", "key.bias"}}}));
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
  run.options.accumulation = micro_batches;
  run.options.batch_size = 12 / comm.size() / micro_batches;
  run.options.optimizer = "sgd";
  run.options.momentum = 0.9;
  run.options.lr = 0.2;
  run.options.warmup = 1;
  run.options.clip = 0.5;
  run.options.dropout = 0;
  Trained last;
  keep_after(kSteps, seen, last);
  run_training(run);

  EXPECT_EQ(seen.phases, std::vector<std::int64_t>{kCut});
  ASSERT_EQ(seen.steps.size(), static_cast<std::size_t>(kSteps));
  for (std::int64_t i = 0; i < kSteps; ++i) {
    const StepRecord& s = seen.steps[static_cast<std::size_t>(i)];
    const auto want = [&](const char* name) {
      return file.tensor(name)[i].item<double>();
    };
    // The penalty stands beside the loss of the task.
    EXPECT_NEAR(s.loss, want("losses"), 1e-5 * want("losses")) << s.step;
    EXPECT_NEAR(s.penalty, want("penalties"), 1e-5 * want("penalties"))
        << s.step;
    EXPECT_NEAR(s.grad_norm, want("norms"), 1e-4 * want("norms")) << s.step;
  }
  expect_final(file, last);
}

TEST(DiffPruning, AgreesWithPyTorchHoweverTheBatchIsCut) {
  for (const int ranks : {1, 2, 4}) {
    for (const std::int64_t micro_batches : {1, 3}) {
      SCOPED_TRACE(fmt::format("{} ranks, {} passes", ranks, micro_batches));
      run_ranks(ranks, [&](Communicator& comm) {
        train_and_compare(comm, micro_batches);
      });
    }
  }
}

Job pruning_job(std::int64_t gates, std::int64_t steps) {
  Job job;
  job.methods = {{"diff_pruning",
                  {{"density", 0.1},
                   {"gate_steps", gates},
                   {"l0_penalty", 1e-4},
                   {"gate_lr_factor", 5}}}};
  job.train = make_folder(26, false);
  job.eval = make_folder(9, false, 2);
  job.options.steps = steps;
  job.options.batch_size = 3;
  job.options.lr = 1e-2;
  return job;
}

// The survivors begin where the cut found them, with a schedule, an optimizer
// and a search of their own; the frozen weights are those of the file, and the
// checkpoint holds the mask alone.
TEST(DiffPruning, TheCutLeavesTheModelWhereEvaluationSawIt) {
  Job job = pruning_job(4, 6);
  // 4,160 of 5,331 numbers: all that compete.
  job.methods[0].second["density"] = 0.78043519;
  job.methods[0].second["exclude"] = {"embeddings", "key.bias"};
  job.options.eval_every = 1;
  job.options.warmup = 1;  // the fifth step moves nothing
  const TempFolder folder;
  job.folder = folder.path();
  const Result r = run_job(job, 2)[0];
  EXPECT_EQ(r.seen.phases, std::vector<std::int64_t>{4});
  EXPECT_EQ(r.seen.steps[4].lr, 0);
  EXPECT_TRUE(r.seen.evals[4].best);  // whatever came before
  EXPECT_GT(r.summary.best->step, 4);
  EXPECT_EQ(r.frozen_before, r.frozen_after);
  const auto loss = [&](std::size_t i) {
    return r.seen.evals[i].metrics.at("loss");
  };
  EXPECT_NEAR(loss(4), loss(3), 1e-5 * loss(3));  // sums of another order
  EXPECT_GT(std::abs(loss(3) - loss(0)), 1e-3);   // until 1 it warmed up
  const Delta saved = load_checkpoint(folder / "checkpoints/step-6").delta;
  EXPECT_TRUE(saved.constants().empty());
  EXPECT_EQ(saved.trainable(), r.summary.trainable_parameters);
}

// A rank alone with local steps is one that exchanges at each, but for the
// rounding of differences.
TEST(DiffPruning, LocalStepsHaveThePenaltyToo) {
  Job job = pruning_job(5, 6);
  const Result each = run_job(job, 1)[0];
  job.options.exchange.sync_every = 3;
  const Result local = run_job(job, 1)[0];
  ASSERT_EQ(each.seen.steps.size(), local.seen.steps.size());
  for (std::size_t i = 0; i < 5; ++i) {
    EXPECT_GT(each.seen.steps[i].penalty, 0) << i;
    EXPECT_NEAR(local.seen.steps[i].penalty, each.seen.steps[i].penalty,
                1e-5 * each.seen.steps[i].penalty)
        << i;
  }
  // By much more than that in a step.
  EXPECT_LT(each.seen.steps[1].penalty, 0.9999 * each.seen.steps[0].penalty);
}

TEST(DiffPruning, IsRefusedWhereItLeavesNothingOrCannot) {
  const auto refusal = [](const Job& job) {
    try {
      run_job(job, 2);
    } catch (const UsageError& e) {
      return std::string(e.what());
    }
    return std::string("accepted");
  };
  EXPECT_THAT(refusal(pruning_job(6, 6)),
              HasSubstr("diff_pruning: its first phase ends at step 6, which "
                        "leaves none of the run's 6"));
  // A rate at which every gate closes at once.
  Job closed = pruning_job(3, 6);
  closed.methods[0].second["gate_lr_factor"] = 5000;
  closed.methods[0].second["l0_penalty"] = 1;
  EXPECT_THAT(refusal(closed), HasSubstr("at step 3 only 0 differ"));
  Job before = pruning_job(3, 6);
  before.methods[0].second["exclude"] = {"pooler"};
  before.methods.push_back({"random_mask",
                            {{"density", 0.02},
                             {"warmup_steps", 2},
                             {"count_head_in_budget", false},
                             {"train_head", false},
                             {"exclude", {"embeddings", "encoder"}}}});
  EXPECT_THAT(refusal(before),
              HasSubstr("diff_pruning returns to the start at step 3, and "
                        "random_mask begins a phase at step 2"));
}

}  // namespace
}  // namespace thinwire
