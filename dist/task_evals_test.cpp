// Runs over several tasks: whichever comes when, ranks are one and a run that
// was broken off goes on as if it had not been; each task is evaluated by
// itself.
#include "dist/task_evals.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>

#include "data/task_folders.h"
#include "dist/testing.h"

namespace thinwire {
namespace {

using namespace trial;  // dist/testing.h
using ::testing::HasSubstr;

EvalRecord record(const char* task, Metrics metrics, std::int64_t samples) {
  EvalRecord r;
  r.task = task;
  r.metrics = std::move(metrics);
  r.samples = samples;
  return r;
}

// Numbers of three tasks of GLUE: two metrics of one task are one score.
TEST(TaskAverage, IsTheMeanOfEachTasksMeanMetric) {
  const std::vector<TaskEval> tasks{{"cola", nullptr, {"matthews"}},
                                    {"mrpc", nullptr, {"f1", "accuracy"}},
                                    {"rte", nullptr, {}}};
  const std::vector<EvalRecord> records{
      record("cola", {{"matthews", 0.6}, {"accuracy", 1}, {"loss", 1}}, 5),
      record("mrpc", {{"f1", 0.9}, {"accuracy", 0.8}, {"loss", 2}}, 7),
      record("rte", {{"f1", 0}, {"accuracy", 0.7}, {"loss", 6}}, 9)};
  const EvalRecord all = average_tasks(tasks, records, "accuracy");
  EXPECT_EQ(all.task, "");
  EXPECT_EQ(all.samples, 21);
  const Metrics want{{"average", (0.6 + (0.9 + 0.8) / 2 + 0.7) / 3},
                     {"loss", 3},
                     {"cola.matthews", 0.6},
                     {"mrpc.accuracy", 0.8},
                     {"mrpc.f1", 0.9},
                     {"rte.accuracy", 0.7}};
  ASSERT_EQ(all.metrics.size(), want.size());
  for (const auto& [name, value] : want) {
    EXPECT_NEAR(all.metrics.at(name), value, 1e-15) << name;
  }
}

TEST(TaskAverage, ALossIsNoScore) {
  std::vector<TaskEval> tasks{{"a", nullptr, {}}};
  const std::vector<EvalRecord> records{
      record("a", {{"exact_match", 0.5}, {"loss", 2}}, 1)};
  EXPECT_EQ(average_tasks(tasks, records, "loss").metrics,
            (Metrics{{"loss", 2}}));
  tasks[0].metrics = {"loss"};
  try {
    average_tasks(tasks, records, "loss");
    FAIL();
  } catch (const UsageError& e) {
    EXPECT_STREQ(e.what(),
                 "task a: 'loss' is no score of it; choose from: exact_match");
  }
}

class MultitaskRun : public ::testing::TestWithParam<bool> {
 protected:
  // One global batch of 8 out of three tasks, whatever the number of ranks.
  Job job(int ranks) const {
    Job job;
    job.methods = {{"lora", {{"r", 4}}}};
    job.train =
        join_task_folders({make_folder(60, false, 1), make_folder(20, false, 2),
                           make_folder(9, false, 3)});
    job.edit = [this](TrainRun& run, int) {
      for (std::int32_t t = 0; t < 3; ++t) {
        run.task_evals.push_back(
            {"task" + std::to_string(t),
             as_task(evals_[static_cast<std::size_t>(t)], t),
             {"accuracy"}});
      }
    };
    TrainOptions& o = job.options;
    o.deterministic = true;
    o.mixing.rule = MixingOptions::Rule::kEqual;
    o.mixing.one_task = GetParam();
    o.steps = 6;
    o.eval_every = 3;
    o.lr = 0.02;
    o.batch_size = 8 / ranks;
    return job;
  }

  const std::vector<std::shared_ptr<const ShardFolder>> evals_{
      make_folder(13, false, 4), make_folder(5, false, 5),
      make_folder(7, false, 6)};
};

TEST_P(MultitaskRun, RanksAreOne) {
  const Result one = run_job(job(1), 1)[0];
  for (const int ranks : {2, 4}) {
    for (const Result& r : run_job(job(ranks), ranks)) {
      for (std::size_t i = 0; i < one.seen.steps.size(); ++i) {
        EXPECT_EQ(r.seen.steps[i].loss, one.seen.steps[i].loss) << i;
      }
      EXPECT_TRUE(r.values == one.values) << ranks << " ranks";
    }
  }
}

TEST_P(MultitaskRun, AccumulatedBatchesAreOneToRounding) {
  Job whole = job(1), parts = job(1);
  whole.options.deterministic = parts.options.deterministic = false;
  parts.options.batch_size = 2;
  parts.options.accumulation = 4;
  const Result a = run_job(whole, 1)[0], b = run_job(parts, 1)[0];
  for (std::size_t i = 0; i < a.seen.steps.size(); ++i) {
    EXPECT_NEAR(b.seen.steps[i].loss / a.seen.steps[i].loss, 1, 1e-5) << i;
  }
}

TEST_P(MultitaskRun, ResumedItGoesOnBitForBit) {
  const Result whole = run_job(job(2), 2)[0];
  const TempFolder folder;
  Job broken = job(2);
  broken.folder = folder.path();
  broken.options.checkpoint_every = 2;
  broken.options.keep = 5;
  run_job(broken, 2);
  std::filesystem::remove_all(folder / "checkpoints/step-6");
  std::filesystem::remove_all(folder / "checkpoints/step-4");
  broken.resume = true;
  for (const int ranks : {4, 2}) {  // with other ranks: the same global batch
    broken.options.batch_size = 8 / ranks;
    const TempFolder copy;
    std::filesystem::copy(folder.path(), copy.path(),
                          std::filesystem::copy_options::recursive);
    broken.folder = copy.path();
    for (const Result& r : run_job(broken, ranks)) {
      ASSERT_EQ(r.seen.steps.size(), 4u);
      EXPECT_EQ(r.seen.steps[0].loss, whole.seen.steps[2].loss);
      EXPECT_TRUE(r.values == whole.values) << ranks << " ranks";
    }
  }
}

TEST_P(MultitaskRun, EachTaskIsEvaluatedAndAllTogether) {
  const TempFolder folder;
  Job with = job(2);
  with.folder = folder.path();
  const Result r = run_job(with, 2)[0];
  ASSERT_EQ(r.seen.evals.size(), 8u);  // at steps 3 and 6
  double sum = 0;
  for (std::size_t t = 0; t < 3; ++t) {
    const EvalRecord& e = r.seen.evals[4 + t];
    EXPECT_EQ(e.task, "task" + std::to_string(t));
    EXPECT_EQ(e.step, 6);
    EXPECT_EQ(e.samples, evals_[t]->index().samples);
    EXPECT_FALSE(e.best);
    sum += e.metrics.at("accuracy");
  }
  const EvalRecord& all = r.seen.evals[7];
  EXPECT_EQ(all.task, "");
  EXPECT_NEAR(all.metrics.at("average"), sum / 3, 1e-15);
  EXPECT_EQ(r.summary.last->metrics, all.metrics);
  ASSERT_TRUE(r.summary.best);
  EXPECT_GE(r.summary.best->metrics.at("average"), all.metrics.at("average"));
  EXPECT_TRUE(std::filesystem::exists(folder / "best/delta.safetensors"));
}

INSTANTIATE_TEST_SUITE_P(Mixing, MultitaskRun, ::testing::Bool(),
                         [](const auto& info) {
                           return info.param ? "OneTask" : "Mixed";
                         });

// A step draws its task by its number: it must begin where it began.
TEST(MultitaskRun, StepsOfAnotherSizeAreRefused) {
  Job job;
  job.methods = {{"lora", {{"r", 4}}}};
  job.train =
      join_task_folders({make_folder(60, false, 1), make_folder(20, false, 2)});
  job.options.mixing.one_task = true;
  job.options.steps = 4;
  job.options.batch_size = 8;
  const TempFolder folder;
  job.folder = folder.path();
  run_job(job, 1);
  job.resume = true;
  job.options.steps = 8;
  job.options.batch_size = 4;
  try {
    run_job(job, 1);
    FAIL();
  } catch (const UsageError& e) {
    EXPECT_THAT(e.what(), HasSubstr("4 steps had 32 samples, steps of this run "
                                    "have 4; with mixing.one_task"));
  }
}

}  // namespace
}  // namespace thinwire
