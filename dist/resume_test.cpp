// A resumed run is the uninterrupted one, bit for bit.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>

#include "dist/checkpoint.h"
#include "dist/testing.h"

namespace thinwire {
namespace {

using namespace trial;  // dist/testing.h
namespace fs = std::filesystem;

Job base_job(bool text) {
  Job job;
  job.text = text;
  job.model = text ? t5_config(0.1) : bert_config(0.1);
  job.methods = {{"lora", {{"r", 2}, {"dropout", 0.1}}}};
  job.train = make_folder(26, text);
  job.eval = make_folder(9, text, 2);
  job.options.batch_size = 3;
  job.options.lr = 1e-2;
  job.options.weight_decay = 0.01;
  job.options.warmup = 2;
  job.options.bucket_window = 16;
  job.options.keep = 1000;
  return job;
}

std::pair<std::string, Config> fish(std::int64_t warmup, std::int64_t remask) {
  return {"fish_mask",
          {{"density", 0.1},
           {"samples", 10},
           {"warmup_steps", warmup},
           {"remask_every", remask}}};
}

std::string step_folder(const std::string& run, std::int64_t step) {
  return run + "/checkpoints/step-" + std::to_string(step);
}

void expect_same_file(const std::string& a, const std::string& b) {
  EXPECT_EQ(read_file(a), read_file(b)) << a;
}

// Runs job once whole, then once from each step in `cuts` as if killed there.
void expect_exact_resume(Job job, int ranks,
                         const std::vector<std::int64_t>& cuts) {
  const TempFolder whole;
  job.folder = whole.path();
  const auto expected = run_job(job, ranks);
  const std::int64_t end = job.options.steps;
  for (const std::int64_t cut : cuts) {
    SCOPED_TRACE("cut at " + std::to_string(cut));
    const TempFolder part;
    fs::create_directories(part / "checkpoints");
    for (std::int64_t s = 1; s <= cut; ++s) {
      if (!fs::exists(step_folder(whole.path(), s))) continue;
      fs::copy(step_folder(whole.path(), s), step_folder(part.path(), s));
    }
    Job again = job;
    again.folder = part.path();
    again.resume = true;
    const auto resumed = run_job(again, ranks);
    for (std::size_t r = 0; r < resumed.size(); ++r) {
      const auto &seen = resumed[r].seen, &all = expected[r].seen;
      ASSERT_EQ(seen.steps.size(), static_cast<std::size_t>(end - cut));
      for (std::size_t i = 0; i < seen.steps.size(); ++i) {
        const StepRecord& a = seen.steps[i];
        const StepRecord& b = all.steps[static_cast<std::size_t>(cut) + i];
        EXPECT_EQ(a.step, b.step);
        EXPECT_EQ(a.loss, b.loss) << "step " << a.step;
        EXPECT_EQ(a.grad_norm, b.grad_norm) << "step " << a.step;
        EXPECT_EQ(a.lr, b.lr);
        EXPECT_EQ(a.samples, b.samples);
      }
      EXPECT_EQ(resumed[r].values, expected[r].values);
      EXPECT_EQ(resumed[r].summary.delta_hash, expected[r].summary.delta_hash);
      EXPECT_EQ(resumed[r].summary.best->step, expected[r].summary.best->step);
      EXPECT_EQ(resumed[r].summary.last->metrics,
                expected[r].summary.last->metrics);
      EXPECT_EQ(resumed[r].summary.sent_bytes > 0, ranks > 1);
      for (const std::int64_t step : seen.phases) EXPECT_GE(step, cut);
      std::vector<std::int64_t> later;
      for (const std::int64_t step : all.phases) {
        if (step >= cut) later.push_back(step);
      }
      EXPECT_EQ(seen.phases, later);
    }
    for (const char* file : {"delta.safetensors", "optimizer.safetensors"}) {
      expect_same_file(step_folder(part.path(), end) + "/" + file,
                       step_folder(whole.path(), end) + "/" + file);
    }
  }
}

std::vector<std::int64_t> every_step(std::int64_t end) {
  std::vector<std::int64_t> cuts;
  for (std::int64_t s = 1; s < end; ++s) cuts.push_back(s);
  return cuts;
}

TEST(Resume, AtEveryStepOfTwelveIsBitForBit) {
  Job job = base_job(false);
  job.options.steps = 12;
  job.options.checkpoint_every = 1;
  job.options.eval_every = 5;
  expect_exact_resume(job, 1, every_step(12));
}

TEST(Resume, OfTwoRanksOnText) {
  Job job = base_job(true);
  job.options.steps = 12;
  job.options.accumulation = 2;
  job.options.checkpoint_every = 1;
  job.options.eval_every = 4;
  expect_exact_resume(job, 2, every_step(12));
}

TEST(Resume, OfMomentumAndInTheMiddleOfAnEpoch) {
  Job job = base_job(false);
  job.options.steps = 0;
  job.options.epochs = 1.4;
  job.options.optimizer = "sgd";
  job.options.momentum = 0.9;
  job.options.checkpoint_every = 3;
  Job counted = job;
  counted.options.steps = 13;  // ceil(1.4 * 26 / 3)
  counted.options.epochs = 0;
  expect_exact_resume(counted, 1, {3, 6, 9, 12});
  EXPECT_EQ(run_job(job, 1)[0].summary.steps, 13);
}

// 20 dense warm-up steps, a mask, another after 50 steps; resumed in the middle
// of each phase and at each boundary.
TEST(Resume, AcrossPhases) {
  for (const StatePolicy policy : {StatePolicy::kDrop, StatePolicy::kCarry}) {
    Job job = base_job(false);
    job.methods = {fish(20, 50)};
    job.options.steps = 80;
    job.options.checkpoint_every = 5;
    job.options.eval_every = 20;
    job.options.state_policy = policy;
    expect_exact_resume(job, 2, {10, 20, 40, 70, 75});
  }
}

// Everything, then masks of 40, 14 and 10 %.
TEST(Resume, AcrossMasksThatShrink) {
  Job job = base_job(false);
  job.methods = {{"magnitude_mask",
                  {{"density", 0.1},
                   {"density_start", 0.4},
                   {"warmup_steps", 2},
                   {"remask_every", 3},
                   {"remask_until", 9}}}};
  job.options.steps = 12;
  job.options.checkpoint_every = 1;
  job.options.eval_every = 2;
  expect_exact_resume(job, 2, {1, 2, 4, 5, 6, 8, 10});
  const Result r = run_job(job, 1)[0];
  EXPECT_EQ(r.seen.phases, (std::vector<std::int64_t>{2, 5, 8}));
  EXPECT_EQ(r.summary.trainable_parameters, 533);  // of 5,331
}

// 6 steps of everything, back to the start, the mask alone; resumed before,
// at and after the rewind, with local steps too.
TEST(Resume, AcrossARewind) {
  const std::pair<std::string, Config> methods[] = {
      {"lt_sft", {{"density", 0.1}, {"full_steps", 6}}},
      {"diff_pruning",
       {{"density", 0.1}, {"gate_steps", 6}, {"gate_lr_factor", 5}}}};
  for (const auto& method : methods) {
    for (const std::int64_t local : {1, 4}) {
      SCOPED_TRACE(method.first);
      Job job = base_job(false);
      job.methods = {method};
      job.options.steps = 11;
      job.options.checkpoint_every = 1;
      job.options.eval_every = 2;
      job.options.exchange.sync_every = local;
      expect_exact_resume(job, 2, {3, 5, 6, 7, 9});
    }
  }
}

TEST(Resume, OfEveryOptimizerAcrossPhases) {
  for (const char* optimizer : {"lion", "adafactor"}) {
    for (const StatePolicy policy : {StatePolicy::kDrop, StatePolicy::kCarry}) {
      SCOPED_TRACE(optimizer);
      Job job = base_job(false);
      job.methods = {fish(4, 6)};
      job.options.optimizer = optimizer;
      job.options.steps = 14;
      job.options.checkpoint_every = 1;
      job.options.eval_every = 20;
      job.options.state_policy = policy;
      expect_exact_resume(job, 2, {2, 4, 5, 10, 12});
    }
  }
}

TEST(Resume, OfAdafactorInAWindowOfDisjointMasks) {
  Job job = base_job(false);
  job.methods = {fish(0, 6)};
  job.options.optimizer = "adafactor";
  job.options.beta1 = 0.9;
  job.options.steps = 9;
  job.options.checkpoint_every = 1;
  job.options.exchange.sync_every = 4;
  job.options.exchange.workers = ExchangeOptions::Workers::kDisjoint;
  expect_exact_resume(job, 2, {2, 5, 6, 7});
}

// Values, optimizer and window of every rank are its own between two merges.
TEST(Resume, InTheMiddleOfAWindow) {
  Job job = base_job(false);
  job.options.steps = 10;
  job.options.checkpoint_every = 1;
  job.options.eval_every = 5;
  job.options.exchange.sync_every = 4;
  job.options.exchange.outer_lr = 0.8;
  job.options.exchange.outer_momentum = 0.9;
  expect_exact_resume(job, 2, every_step(10));
}

TEST(Resume, OfDisjointMasksInAWindowAndAcrossThem) {
  Job job = base_job(false);
  job.methods = {fish(0, 6)};
  job.options.steps = 14;
  job.options.checkpoint_every = 1;
  job.options.exchange.sync_every = 4;
  job.options.exchange.workers = ExchangeOptions::Workers::kDisjoint;
  expect_exact_resume(job, 3, {2, 4, 5, 6, 7, 11, 13});
}

// What rounding left behind on each rank goes on where it was.
TEST(Resume, OfCodecsThatKeepTheirErrors) {
  for (const Codec codec : {Codec::kBf16, Codec::kInt8}) {
    SCOPED_TRACE(std::string(name_of(codec)));
    Job job = base_job(false);
    job.options.steps = 8;
    job.options.checkpoint_every = 2;
    job.options.exchange.codec = codec;
    job.options.exchange.bucket_bytes = 2048;
    expect_exact_resume(job, 3, {2, 4, 6});
  }
}

TEST(Resume, OfTheLargestNumbersAndOfCodecsInAWindow) {
  Job job = base_job(false);
  job.options.steps = 8;
  job.options.checkpoint_every = 1;
  job.options.exchange.what = ExchangeOptions::What::kTopK;
  job.options.exchange.density = 0.1;
  expect_exact_resume(job, 2, {3, 6});
  job.options.exchange.what = ExchangeOptions::What::kDelta;
  job.options.exchange.codec = Codec::kInt8;
  job.options.exchange.sync_every = 3;
  expect_exact_resume(job, 2, {2, 3, 4, 7});
}

TEST(Resume, RefusesOtherRanksWhereEachHasSomethingOfItsOwn) {
  const TempFolder folder;
  Job job = base_job(false);
  job.options.steps = 3;
  job.options.batch_size = 2;
  job.options.exchange.sync_every = 2;
  job.folder = folder.path();
  run_job(job, 2);
  job.resume = true;
  job.options.steps = 6;
  for (const int ranks : {1, 4}) {
    job.options.batch_size = 4 / ranks;
    try {
      run_job(job, ranks);
      FAIL() << "accepted";
    } catch (const UsageError& e) {
      EXPECT_THAT(e.what(), ::testing::HasSubstr("as many ranks as before"));
    }
  }
}

TEST(Resume, PhasesHappenOnceAndLeaveTheRestAlone) {
  Job job = base_job(false);
  job.methods = {fish(0, 4)};
  job.options.steps = 10;
  job.options.weight_decay = 0.1;
  Job still = job;
  still.options.steps = 3;  // before the second mask
  for (const Result& r : run_job(still, 2)) {
    EXPECT_EQ(r.frozen_after, r.frozen_before);
  }
  for (const Result& r : run_job(job, 2)) {
    EXPECT_EQ(r.seen.phases, (std::vector<std::int64_t>{4, 8}));
  }
}

// Masks inside an adapter and LoRA, drawn after warm-up.
TEST(Resume, AMaskInsideAMethodAtEveryStep) {
  const std::pair<std::string, Config> methods[] = {
      {"sparse_adapter",
       {{"adapter", {{"method", "houlsby"}, {"bottleneck", 4}}},
        {"density", 0.3},
        {"samples", 10},
        {"warmup_steps", 3}}},
      {"fish_tuning",
       {{"adapter", {{"method", "lora"}, {"r", 2}, {"dropout", 0.1}}},
        {"density", 0.4},
        {"samples", 10},
        {"warmup_steps", 3}}}};
  for (const bool text : {false, true}) {
    for (const auto& method : methods) {
      SCOPED_TRACE(method.first);
      Job job = base_job(text);
      job.methods = {method};
      job.options.steps = 6;
      job.options.checkpoint_every = 1;
      job.options.eval_every = 4;
      expect_exact_resume(job, 2, every_step(6));
    }
  }
}

// Weights that lose numbers, or heads and channels, at a boundary.
TEST(Resume, AcrossAPruningAtEveryStep) {
  const Config changes = {{"r", 2}, {"sparse", 5}, {"prune_after", 3}};
  const std::pair<const char*, Config> kinds[] = {
      {"numbers", {{"dropout", 0.1}}},
      {"numbers of the change too", {{"mask_update", true}}},
      {"heads and channels", {{"prune_heads", 1}, {"prune_channels", 0.25}}}};
  for (const bool text : {false, true}) {
    for (const auto& [kind, more] : kinds) {
      SCOPED_TRACE(kind);
      Job job = base_job(text);
      Config config = changes;
      config.update(more);
      job.methods = {{"dsee", config}};
      job.options.steps = 6;
      job.options.checkpoint_every = 1;
      job.options.eval_every = 4;
      expect_exact_resume(job, 2, every_step(6));
    }
  }
}

// What is removed is so on every rank, the same whatever their number.
TEST(Resume, RanksPruneAsOne) {
  Job job = base_job(false);
  job.methods = {{"dsee", {{"r", 2}, {"sparse", 5}, {"prune_after", 3}}}};
  job.options.deterministic = true;
  job.options.steps = 5;
  job.options.batch_size = 8;
  const Result one = run_job(job, 1)[0];
  EXPECT_EQ(one.seen.phases, std::vector<std::int64_t>{3});
  EXPECT_NE(one.frozen_after, one.frozen_before);
  for (const int ranks : {2, 4}) {
    job.options.batch_size = 8 / ranks;
    for (const Result& r : run_job(job, ranks)) {
      EXPECT_EQ(r.summary.delta_hash, one.summary.delta_hash);
      EXPECT_TRUE(r.values == one.values);
      EXPECT_EQ(r.frozen_after, one.frozen_after);
    }
  }
}

// A run that ends before what it was asked for begins says so.
TEST(Trainer, WarnsOfAPhaseThatItIsTooShortFor) {
  Job job;
  job.methods = {{"dsee", {{"r", 2}, {"sparse", 5}, {"prune_after", 4}}}};
  job.train = make_folder(26, false);
  job.options.batch_size = 3;
  for (const std::int64_t steps : {4, 5}) {
    job.options.steps = steps;
    const auto warnings = run_job(job, 2)[0].seen.warnings;
    if (steps == 5) {
      EXPECT_THAT(warnings, ::testing::IsEmpty());
    } else {
      EXPECT_THAT(warnings, ::testing::ElementsAre(
                                "dsee: its next phase would begin after step "
                                "4, and the run has 4"));
    }
  }
}

// A boundary changes what trains, not what the model computes: the step after
// it has the loss that the step would have had without.
TEST(Resume, ABoundaryDoesNotMoveTheModel) {
  Job job = base_job(false);
  job.options.steps = 5;
  const auto with = [&](std::int64_t warmup) {
    Job j = job;
    j.methods = {fish(warmup, 50)};
    return run_job(j, 1)[0].seen.steps;
  };
  const auto cut = with(4), uncut = with(40);
  for (std::size_t i = 0; i < 5; ++i) EXPECT_EQ(cut[i].loss, uncut[i].loss);
  EXPECT_NE(cut[4].grad_norm, uncut[4].grad_norm);
}

TEST(Resume, ContinuesWithOtherRanksOnTheSameSamples) {
  const TempFolder folder;
  Job job = base_job(false);
  job.options.steps = 4;
  job.options.batch_size = 4;
  job.options.checkpoint_every = 4;
  job.folder = folder.path();
  run_job(job, 2);
  job.resume = true;
  job.options.steps = 8;
  job.options.batch_size = 2;
  const Result four = run_job(job, 4)[0];
  EXPECT_EQ(four.seen.steps.front().step, 5);
  EXPECT_EQ(four.seen.steps.front().samples, 8);
  job.options.batch_size = 3;
  EXPECT_THROW(run_job(job, 3), UsageError);  // 64 is no multiple of 9
}

TEST(Resume, RefusesAnotherBackboneOrOptimizer) {
  const TempFolder folder;
  Job job = base_job(false);
  job.options.steps = 2;
  job.folder = folder.path();
  run_job(job, 1);
  job.resume = true;
  Job other = job;
  other.model_seed = 2;
  try {
    run_job(other, 2);
    FAIL() << "accepted";
  } catch (const UsageError& e) {
    EXPECT_THAT(e.what(), ::testing::HasSubstr("backbone"));
  }
  other = job;
  other.options.optimizer = "sgd";
  other.options.momentum = 0.5;
  EXPECT_THROW(run_job(other, 1), UsageError);
  other = job;
  other.options.steps = 3;
  other.config_text = "another";
  EXPECT_THAT(run_job(other, 1)[0].seen.warnings,
              ::testing::ElementsAre(::testing::HasSubstr("changed")));
}

}  // namespace
}  // namespace thinwire
