// Exchange policies in whole runs on ranks that are threads.
#include <ATen/ops/arange.h>
#include <ATen/ops/zeros.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "dist/changed_task.h"
#include "dist/testing.h"

namespace thinwire {
namespace {

using namespace trial;  // dist/testing.h
using ::testing::AllOf;
using ::testing::Each;
using ::testing::HasSubstr;
using Workers = ExchangeOptions::Workers;
using What = ExchangeOptions::What;

constexpr double kNan = std::numeric_limits<double>::quiet_NaN();

Job lora_job() {
  Job job;
  job.methods = {{"lora", {{"r", 2}}}};
  job.train = make_folder(26, false);
  job.options.batch_size = 2;
  job.options.steps = 6;
  job.options.lr = 1e-2;
  job.options.schedule = "constant";
  return job;
}

Job local_job(std::int64_t every) {
  Job job = lora_job();
  job.options.exchange.sync_every = every;
  return job;
}

Job disjoint_job(std::int64_t every, std::int64_t remask) {
  Job job = local_job(every);
  job.methods = {
      {"fish_mask",
       {{"density", 0.1}, {"samples", 10}, {"remask_every", remask}}}};
  job.options.exchange.workers = Workers::kDisjoint;
  job.options.weight_decay = 0.1;
  return job;
}

// The delta's values on each rank after each step; [0] before the first.
using Path = std::vector<std::vector<float>>;

std::vector<float> numbers(const at::Tensor& t) {
  const float* p = t.const_data_ptr<float>();
  return {p, p + t.numel()};
}

std::vector<Path> paths(Job job, int ranks,
                        std::vector<Result>* results = nullptr) {
  std::vector<Path> out(static_cast<std::size_t>(ranks));
  std::vector<Result> all(static_cast<std::size_t>(ranks));
  run_ranks(ranks, [&](Communicator& comm) {
    const auto rank = static_cast<std::size_t>(comm.rank());
    Job mine = job;
    const Recorder* seen = nullptr;
    mine.edit = [&](TrainRun& run, int r) {
      seen = static_cast<const Recorder*>(run.observer);
      if (job.edit) job.edit(run, r);
    };
    const auto record = [&] {
      out[rank].push_back(numbers(seen->delta->values()));
    };
    mine.on_begin = record;
    mine.on_step = [&](const StepRecord& r, int me) {
      record();
      if (job.on_step) job.on_step(r, me);
    };
    all[rank] = run_job(mine, comm);
  });
  if (results != nullptr) *results = std::move(all);
  return out;
}

TEST(LocalSteps, AMergeIsTheMeanOfWhatTheRanksMade) {
  // Up to step 3 both make the same steps; one of them shows the values that
  // the other merges.
  const auto merged = paths(local_job(3), 2), apart = paths(local_job(6), 2);
  for (std::size_t r = 0; r < 2; ++r) {
    for (std::size_t step = 0; step < 3; ++step) {
      EXPECT_EQ(merged[r][step], apart[r][step]);
    }
  }
  EXPECT_NE(apart[0][1], apart[1][1]);
  EXPECT_EQ(merged[0][3], merged[1][3]);
  EXPECT_EQ(merged[0][6], merged[1][6]);
  EXPECT_NE(merged[0][4], merged[1][4]);
  const auto &c = apart[0][0], &a = apart[0][3], &b = apart[1][3];
  for (std::size_t i = 0; i < c.size(); ++i) {
    const float sum = (a[i] - c[i]) + (b[i] - c[i]);
    EXPECT_EQ(merged[0][3][i], c[i] + 1.0f * (sum / 2)) << i;
  }
}

TEST(LocalSteps, AnOuterOptimizerMovesTheCommonValues) {
  Job job = local_job(3), solo = local_job(6);
  job.options.exchange.outer_lr = 0.7;
  job.options.exchange.outer_momentum = 0.9;
  const auto merged = paths(job, 2), apart = paths(solo, 2);
  const auto &c = apart[0][0], &a = apart[0][3], &b = apart[1][3];
  for (std::size_t i = 0; i < c.size(); ++i) {
    const float d = ((a[i] - c[i]) + (b[i] - c[i])) / 2;
    EXPECT_EQ(merged[0][3][i], c[i] + 0.7f * (d + 0.9f * d)) << i;
  }
  EXPECT_EQ(merged[0][6], merged[1][6]);
}

TEST(LocalSteps, OneRankTrainsAsWithoutThem) {
  const auto plain = paths(lora_job(), 1), local = paths(local_job(4), 1);
  for (std::size_t i = 0; i < plain[0][6].size(); ++i) {
    const float v = plain[0][6][i];
    EXPECT_NEAR(local[0][6][i], v, 1e-5 * (1 + std::abs(v)));
  }
}

TEST(LocalSteps, OnlyMergesSend) {
  std::vector<Result> results;
  paths(local_job(3), 2, &results);
  for (const Result& r : results) {
    for (const StepRecord& s : r.seen.steps) {
      EXPECT_EQ(s.sent_bytes > 0, s.step % 3 == 0) << s.step;
      EXPECT_EQ(s.samples, 4);
    }
  }
  // Records add up to what all ranks saw.
  std::vector<Result> every;
  paths(lora_job(), 2, &every);
  const auto tokens = [](const Result& r) {
    std::int64_t sum = 0;
    for (const StepRecord& s : r.seen.steps) sum += s.tokens;
    return sum;
  };
  EXPECT_EQ(tokens(results[0]), tokens(every[0]));
  EXPECT_EQ(tokens(results[1]), tokens(every[0]));
}

// Between two merges the model that is evaluated and saved is the common one.
TEST(LocalSteps, EvaluatesWhatTheRanksHaveInCommon) {
  Job job = local_job(4);
  job.eval = make_folder(9, false, 2);
  job.options.eval_every = 1;
  job.options.eval_at_start = true;
  std::vector<Result> results;
  paths(job, 2, &results);
  const auto& evals = results[0].seen.evals;
  ASSERT_EQ(evals.size(), 7u);
  for (const int same : {1, 2, 3}) {
    EXPECT_EQ(evals[same].metrics, evals[0].metrics);
  }
  EXPECT_EQ(evals[5].metrics, evals[4].metrics);
  EXPECT_NE(evals[4].metrics, evals[0].metrics);
  EXPECT_NE(evals[6].metrics, evals[4].metrics);  // the run ends with a merge
  for (std::size_t i = 0; i < evals.size(); ++i) {
    EXPECT_EQ(results[1].seen.evals[i].metrics, evals[i].metrics);
  }
}

TEST(LocalSteps, ANonFiniteStepIsLeftOutByItsRankAndNamedAtTheMerge) {
  Job job = local_job(3);
  change_loss(job, 1, [](LossTerms terms, std::uint64_t step) {
    if (step == 1) terms.sum = terms.sum.mul(kNan);
    return terms;
  });
  std::vector<Result> results;
  const auto path = paths(job, 2, &results);
  EXPECT_EQ(path[1][2], path[1][1]);
  EXPECT_NE(path[0][2], path[0][1]);
  EXPECT_EQ(path[0][3], path[1][3]);
  EXPECT_EQ(path[0][6], path[1][6]);
  for (std::size_t r = 0; r < 2; ++r) {
    const Result& result = results[r];
    for (const float v : result.values) EXPECT_TRUE(std::isfinite(v));
    EXPECT_EQ(result.summary.skipped_steps, 1);
    ASSERT_EQ(result.seen.warnings.size(), 1u);
    EXPECT_THAT(result.seen.warnings[0],
                AllOf(HasSubstr("steps 1 to 3"), HasSubstr("step 2 on rank 1"),
                      HasSubstr("lora_A")));
    EXPECT_EQ(result.seen.steps[1].skipped, r == 1);
  }
}

TEST(LocalSteps, TooManyBadMergesInARowEndTheRunByName) {
  Job job = local_job(2);
  job.options.steps = 20;
  job.options.max_skips = 3;
  change_loss(job, 1, [](LossTerms terms, std::uint64_t step) {
    if (step >= 5) terms.sum = terms.sum.mul(kNan);
    return terms;
  });
  EXPECT_THAT(failures(job, 2),
              Each(AllOf(type_is("error"), text_has("3 merges in a row"),
                         text_has("step 10"), text_has("on rank 1"))));
}

TEST(LocalSteps, AnErrorOnOneRankEndsAllWithItsLine) {
  Job job = local_job(5);
  change_loss(job, 1, [](LossTerms terms, std::uint64_t step) {
    if (step == 1) fail<UsageError>("sample 1007: label 9 is out of range");
    return terms;
  });
  EXPECT_THAT(failures(job, 3), Each(AllOf(type_is("usage"), text_has("rank 1"),
                                           text_has("sample 1007: label 9"))));
}

TEST(DisjointWorkers, EachMovesItsShareAndTheSumCounts) {
  const Job job = disjoint_job(3, 0), solo = disjoint_job(6, 0);
  std::vector<Result> results;
  const auto merged = paths(job, 2), apart = paths(solo, 2, &results);
  const auto &c = apart[0][0], &a = apart[0][3], &b = apart[1][3];
  std::size_t moved_a = 0, moved_b = 0, moved_both = 0;
  for (std::size_t i = 0; i < c.size(); ++i) {
    const bool by_a = a[i] != c[i], by_b = b[i] != c[i];
    moved_a += by_a;
    moved_b += by_b;
    moved_both += by_a && by_b;
    EXPECT_EQ(merged[0][3][i], c[i] + ((a[i] - c[i]) + (b[i] - c[i]))) << i;
  }
  EXPECT_EQ(merged[0][3], merged[1][3]);
  EXPECT_EQ(merged[0][6], merged[1][6]);
  // The head belongs to both, every other number to one; each share is what a
  // worker alone would have (rows of embeddings without a token stay).
  EXPECT_LE(moved_both, 3u * 16 + 3);
  EXPECT_GT(moved_both, 0u);
  EXPECT_GT(moved_a, moved_both + 100);
  EXPECT_GT(moved_b, moved_both + 100);
  Job one = disjoint_job(3, 0);
  const Result alone = run_job(one, 1)[0];
  const auto head = alone.summary.head_parameters;
  EXPECT_EQ(results[0].summary.trainable_parameters - head,
            2 * (alone.summary.trainable_parameters - head));
}

TEST(DisjointWorkers, AreDealtAnewEveryRMerges) {
  const Job job = disjoint_job(2, 6);  // R = 3
  Job longer = job;
  longer.options.steps = 14;
  std::vector<Result> results;
  paths(longer, 3, &results);
  for (const Result& r : results) {
    EXPECT_EQ(r.seen.phases, (std::vector<std::int64_t>{6, 12}));
    EXPECT_EQ(r.values, results[0].values);
    EXPECT_EQ(r.summary.delta_hash, results[0].summary.delta_hash);
  }
}

TEST(DisjointWorkers, AMaskNeedsNoMergeAtItsEnd) {
  const Job job = disjoint_job(4, 6);  // a phase ends between two merges
  Job longer = job;
  longer.options.steps = 12;
  std::vector<Result> results;
  paths(longer, 2, &results);
  EXPECT_EQ(results[0].values, results[1].values);
  EXPECT_GT(results[0].seen.steps[5].sent_bytes, 0);
}

TEST(DisjointWorkers, NeedAMethodThatDealsOut) {
  Job job = lora_job();
  job.options.exchange.workers = Workers::kDisjoint;
  EXPECT_THAT(failures(job, 2),
              Each(AllOf(type_is("usage"), text_has("comm.workers"))));
}

TEST(OtherExchanges, DenseGivesTheSameValuesAtManyTimesTheBytes) {
  Job job = lora_job();
  job.methods = {{"fish_mask", {{"density", 0.1}, {"samples", 10}}}};
  Job dense = job;
  dense.options.exchange.what = What::kDense;
  const auto a = run_job(job, 2), b = run_job(dense, 2);
  EXPECT_EQ(a[0].values, b[0].values);
  EXPECT_EQ(b[0].values, b[1].values);
  const auto numbers = b[0].summary.total_parameters;
  EXPECT_GE(b[0].seen.steps[1].sent_bytes, 4 * numbers);
  EXPECT_LT(b[0].seen.steps[1].sent_bytes, 4 * numbers + 1024);
  EXPECT_LT(a[0].seen.steps[1].sent_bytes, numbers);
}

TEST(OtherExchanges, TheLargestNumbersTravelAlone) {
  const Job job = lora_job();
  Job sparse = job, whole = job;
  sparse.options.exchange.what = whole.options.exchange.what = What::kTopK;
  sparse.options.exchange.density = 0.05;
  whole.options.exchange.density = 1;
  const auto a = run_job(job, 2), b = run_job(sparse, 2), c = run_job(whole, 2);
  EXPECT_EQ(c[0].values, a[0].values);
  EXPECT_EQ(b[0].values, b[1].values);
  EXPECT_NE(b[0].values, a[0].values);
  EXPECT_LT(b[0].seen.steps[1].sent_bytes, a[0].seen.steps[1].sent_bytes / 4);
}

TEST(Guards, AValueThatDriftsIsFoundWithinAHundredSteps) {
  Job job = lora_job();
  job.options.steps = 150;
  job.edit = [](TrainRun& run, int rank) {
    if (rank != 2) return;
    auto* seen = static_cast<Recorder*>(run.observer);
    seen->on_begin = [seen] {
      const_cast<float*>(seen->delta->values().const_data_ptr<float>())[5] +=
          1e-3f;
    };
  };
  EXPECT_THAT(failures(job, 4), Each(AllOf(type_is("comm"), text_has("rank 2"),
                                           text_has("values at step 100"))));
}

TEST(Guards, OneIndexOfOneMaskIsNamedBeforeAnythingIsReduced) {
  Job job = lora_job();
  job.methods = {{"head", Config::object()}};
  job.edit = [](TrainRun& run, int rank) {
    DeltaBuilder builder;
    DeltaEntry e;
    e.name = "mask";
    e.kind = EntryKind::kMasked;
    e.target = "bert.pooler.dense.weight";
    const auto slot = run.backbone->parameters().require(e.target);
    e.shape = run.backbone->parameters().slot(slot).frozen.sizes().vec();
    e.index = at::arange(10, at::kInt);
    if (rank == 1) e.index[9] = 10;
    builder.add(e, at::zeros({10}));
    run.initial_delta = builder.build();
  };
  job.on_step = [](const StepRecord&, int) { FAIL() << "stepped"; };
  EXPECT_THAT(failures(job, 3), Each(AllOf(type_is("comm"), text_has("rank 1"),
                                           text_has("layout"))));
}

}  // namespace
}  // namespace thinwire
