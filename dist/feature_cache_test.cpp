// A run that reads its backbone's features from a cache is the run without, to
// bf16's rounding of what is read; and of itself bit for bit, however it was
// broken off and on however many ranks.
#include "dist/feature_cache.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <map>

#include "base/failpoint.h"
#include "data/task_folders.h"
#include "dist/feature_making.h"
#include "dist/feature_plan.h"
#include "dist/testing.h"
#include "peft/pruned_weights.h"

namespace thinwire {
namespace {

using namespace trial;  // dist/testing.h
using ::testing::AllOf;
using ::testing::HasSubstr;
namespace fs = std::filesystem;

Job base_job(const std::string& cache) {
  Job job;
  job.text = true;
  job.model = t5_config(0.1);
  job.methods = {{"lst", {{"reduction_factor", 2}, {"init", "magnitude"}}}};
  job.train = make_folder(26, true);
  job.options.batch_size = 3;
  job.options.steps = 20;
  job.options.lr = 1e-2;
  job.options.bucket_window = 16;
  job.options.cache = cache;
  return job;
}

std::vector<double> losses(const Result& r) {
  std::vector<double> out;
  for (const StepRecord& s : r.seen.steps) out.push_back(s.loss);
  return out;
}

std::map<std::string, std::string> files_in(const std::string& folder) {
  std::map<std::string, std::string> out;
  for (const auto& item : fs::directory_iterator(folder)) {
    out[item.path().filename().string()] = read_file(item.path().string());
  }
  return out;
}

TEST(FeatureCache, ARunFromItIsTheRunWithoutIt) {
  for (const std::string& model : {t5_config(0.1), bart_config(0.1)}) {
    const TempFolder folder;
    Job job = base_job("");
    job.model = model;
    const Result plain = run_job(job, 1)[0];
    job.options.cache = folder / "cache";
    const Result cached = run_job(job, 1)[0];
    ASSERT_EQ(cached.seen.steps.size(), 20u);
    for (std::size_t i = 0; i < 20; ++i) {
      const double a = cached.seen.steps[i].loss, b = plain.seen.steps[i].loss;
      // Rounding errors grow as the run goes on.
      EXPECT_NEAR(a, b, b * static_cast<double>(i + 1) / 256) << i;
    }
    EXPECT_NE(losses(cached), losses(plain));
    // Another run finds it whole, and need not read it twice.
    const auto made = files_in(folder / "cache");
    Job again = job;
    again.options.steps = 4;
    again.options.schedule = "constant";
    job.options.schedule = "constant";
    const auto all = losses(run_job(job, 1)[0]);
    const auto few = losses(run_job(again, 1)[0]);
    EXPECT_EQ(few, std::vector(all.begin(), all.begin() + 4));
    EXPECT_EQ(files_in(folder / "cache"), made);
  }
}

TEST(FeatureCache, RanksAreOneAndFillItAlike) {
  const auto run = [](int ranks, const std::string& cache) {
    Job job = base_job(cache);
    // Of two tasks, which batches mix; samples of both have the same ids.
    job.train =
        join_task_folders({make_folder(25, true, 1), make_folder(16, true, 2)});
    job.options.deterministic = true;
    job.options.batch_size = 8 / ranks;
    job.options.steps = 6;
    return run_job(job, ranks);
  };
  const TempFolder folder;
  const Result one = run(1, folder / "1")[0];
  for (const int ranks : {2, 4}) {
    const std::string cache = folder / std::to_string(ranks);
    for (const Result& r : run(ranks, cache)) {
      EXPECT_EQ(losses(r), losses(one));
      EXPECT_TRUE(r.values == one.values) << ranks << " ranks";
    }
    EXPECT_EQ(files_in(cache), files_in(folder / "1"));
  }
}

// Every durable step of filling fails in turn; what is there is taken up.
TEST(FeatureCache, BrokenOffAnywhereItIsFilledToTheSameFiles) {
  const TempFolder folder;
  const auto expected = run_job(base_job(folder / "whole"), 1)[0];
  const auto files = files_in(folder / "whole");
  ASSERT_GT(files.size(), 10u);
  std::size_t kept = 0;
  for (const int step : {1, 2, 3, 5, 6, 9, 18, 27, 50, 57, 58, 59}) {
    SCOPED_TRACE(step);
    for (const int ranks : {1, 2}) {
      Job job = base_job(folder / fmt::format("{}-{}", step, ranks));
      set_write_faults(step, 0);
      EXPECT_THROW(run_job(job, ranks), Error);
      set_write_faults(0, 0);
      const bool begun = fs::exists(job.options.cache);
      const auto left = begun ? files_in(job.options.cache) : decltype(files)();
      for (const auto& [name, bytes] : left) {
        if (name.starts_with("features-")) {
          EXPECT_EQ(bytes, files.at(name));
          ++kept;
        } else {
          EXPECT_THAT(bytes, HasSubstr("\"file_bytes\": []"));
        }
      }
      EXPECT_EQ(losses(run_job(job, 1)[0]), losses(expected));
      EXPECT_EQ(files_in(job.options.cache), files);
    }
  }
  EXPECT_GT(kept, 50u);
}

TEST(FeatureCache, AFullDiskIsSaidAndWhatIsMadeIsKept) {
  const TempFolder folder;
  set_write_faults(20, 0);
  try {
    run_job(base_job(folder / "cache"), 2);
    FAIL();
  } catch (const IoError& e) {
    EXPECT_THAT(e.what(), AllOf(HasSubstr("cache.path " + folder / "cache"),
                                HasSubstr("No space left"),
                                HasSubstr("start again to go on")));
  }
  set_write_faults(0, 0);
}

TEST(FeatureCache, AResumedRunIsTheUnbrokenOne) {
  const TempFolder folder;
  Job job = base_job(folder / "cache");
  job.options.checkpoint_every = 3;
  job.options.keep = 100;
  job.folder = folder / "whole";
  const auto whole = run_job(job, 2);
  for (const std::int64_t cut : {3, 12}) {
    for (const bool refill : {false, true}) {
      Job again = job;
      again.folder = folder / fmt::format("{}-{}", cut, refill);
      const std::string step = fmt::format("/checkpoints/step-{}", cut);
      fs::create_directories(again.folder + "/checkpoints");
      fs::copy(job.folder + step, again.folder + step);
      if (refill) again.options.cache = again.folder + "/cache";
      again.resume = true;
      const auto resumed = run_job(again, 2);
      const auto all = losses(whole[0]);
      EXPECT_EQ(losses(resumed[0]), std::vector(all.begin() + cut, all.end()));
      EXPECT_TRUE(resumed[1].values == whole[1].values);
    }
  }
}

std::string refusal(const Job& job, int ranks = 2) {
  try {
    run_job(job, ranks);
  } catch (const Error& e) {
    return e.what();
  }
  return "";
}

TEST(FeatureCache, OneOfSomethingElseIsRefused) {
  const TempFolder folder;
  const Job job = base_job(folder / "cache");
  run_job(job, 1);
  const auto made = files_in(folder / "cache");
  const auto refused = [&](auto edit) {
    Job other = job;
    edit(other);
    return refusal(other);
  };
  EXPECT_THAT(refused([](Job& j) { j.model_seed = 2; }),
              AllOf(HasSubstr("cache.path " + folder / "cache"),
                    HasSubstr("holds features of backbone "),
                    HasSubstr("give another folder")));
  EXPECT_THAT(refused([](Job& j) { j.train = make_folder(26, true, 9); }),
              HasSubstr("holds features of training data "));
  EXPECT_THAT(
      refused([](Job& j) {
        j.methods[0].second["encoder_layers"] = Config::array({1});
      }),
      AllOf(HasSubstr("holds features of layers encoder 0 1, decoder 0, 16 "
                      "wide, this run has encoder 1, decoder 0, 16 wide")));
  EXPECT_EQ(files_in(folder / "cache"), made);
}

TEST(FeatureCache, WhatIsMissingOrDamagedIsSaid) {
  const TempFolder folder;
  Job job = base_job(folder / "cache");
  run_job(job, 1);
  const std::string file = folder / "cache/features-00004.h5";
  const std::string whole = read_file(file);
  const std::uint64_t numbers = Hdf5File(file)
                                    .layout("values", ElementType::kUint16)
                                    .chunks.at(0)
                                    .address;
  fs::remove(file);
  EXPECT_THAT(refusal(job), AllOf(HasSubstr("features-00004.h5"),
                                  HasSubstr("features are missing")));
  std::string bytes = whole;
  bytes[numbers + 9] = static_cast<char>(bytes[numbers + 9] ^ 1);
  write_file(file, bytes);
  EXPECT_THAT(refusal(job), AllOf(HasSubstr("features-00004.h5: /"),
                                  HasSubstr("checksum mismatch")));
  write_file(file, whole);
  EXPECT_EQ(refusal(job), "");
}

TEST(FeatureCache, WhereItWouldBeWrongOrOfNoUseItIsRefused) {
  const TempFolder folder;
  const Job job = base_job(folder / "cache");
  const auto refused = [&](auto edit) {
    Job other = job;
    edit(other);
    return refusal(other);
  };
  EXPECT_THAT(refused([](Job& j) { j.options.steps = 4; }),
              HasSubstr("goes over its data 0.923 times"));
  EXPECT_THAT(
      refused([](Job& j) { j.methods[0].second["frozen_dropout"] = true; }),
      HasSubstr("drops out in training"));
  EXPECT_THAT(refused([](Job& j) {
                j.methods.emplace_back(
                    "lora", Config{{"r", 2}, {"target_modules", {"wi"}}});
              }),
              HasSubstr("what is attached at 'encoder.block.0."));
  EXPECT_THAT(refused([](Job& j) {
                j.methods[0] = {"lora", Config{{"r", 2}}};
              }),
              HasSubstr("no method runs a network beside the backbone"));
  EXPECT_FALSE(fs::exists(folder / "cache"));
  fs::create_directories(folder / "cache");
  write_file(folder / "cache/letter.txt", "dear reader");
  EXPECT_THAT(refusal(job), HasSubstr("no folder of features and not empty"));
  EXPECT_EQ(read_file(folder / "cache/letter.txt"), "dear reader");
}

TEST(FeatureCache, ADiskThatIsSlowerThanTheBackboneIsRefused) {
  EXPECT_EQ(why_not_read(0.9, 1.0, 10), "");
  EXPECT_THAT(why_not_read(1.5, 1.0, 10),
              AllOf(HasSubstr("take 150 ms to read there, 100 ms to make"),
                    HasSubstr("train without a cache")));
}

TEST(FeatureCache, OfABackboneThatIsPrunedThereIsNone) {
  const TempFolder folder;
  Job job = base_job(folder / "cache");
  const std::string target = "encoder.block.1.layer.0.SelfAttention.q.weight";
  job.edit = [&](TrainRun& run, int) {
    DeltaBuilder builder;
    (*run.methods)[0]->declare(builder, *run.backbone, {});
    const Parameters& p = run.backbone->parameters();
    builder.constant(
        pruned_constant(target),
        pack_bits(p.slot(p.require(target)).frozen.abs().lt(0.01)));
    run.initial_delta = builder.build();
  };
  EXPECT_THAT(refusal(job),
              HasSubstr("numbers of '" + target + "' are removed"));
}

// A sample has several sequences in the decoder, which read one encoder's.
TEST(FeatureCache, OfSamplesWithSeveralAnswers) {
  const TempFolder folder;
  Job job = base_job("");
  job.model = t5_config(0.1);
  job.model.replace(job.model.find("\"vocab_size\": 40"), 16,
                    "\"vocab_size\": 70");
  job.train = open_shard_folder(std::string(THINWIRE_SOURCE_DIR) +
                                "/tests/golden/shards_choose");
  job.wrap = [](std::unique_ptr<Task>, int) {
    const TaskInfo& info = find_task("choose");
    return info.make(
        complete_fields("choose", info.fields, TaskConfig::object()));
  };
  const auto plain = losses(run_job(job, 1)[0]);
  job.options.cache = folder / "cache";
  const auto cached = losses(run_job(job, 1)[0]);
  for (std::size_t i = 0; i < plain.size(); ++i) {
    EXPECT_NEAR(cached[i], plain[i],
                plain[i] * static_cast<double>(i + 1) / 256);
  }
}

TEST(FeaturePlan, ForetellsTheFiles) {
  for (const std::int64_t n : {26, 1500}) {
    const TempFolder folder;
    Job job = base_job(folder / "cache");
    job.train = make_folder(n, true);
    job.options.steps = n / 3 + 1;
    run_job(job, 1);
    const FeatureFolder made(folder / "cache");
    write_file(folder / "config.json", job.model);
    const auto backbone = random_backbone(folder / "config.json", 1);
    const auto task = make_tiny_task(true);
    const auto method = make_method("lst", job.methods[0].second);
    DeltaBuilder builder;
    method->declare(builder, *backbone, {.seed = 1});
    const Delta delta = builder.build();
    method->attach(*backbone, delta);
    const FeaturePlan plan = plan_features(*backbone, *task, *job.train);
    EXPECT_EQ(plan.file_samples, made.index().file_samples);
    EXPECT_EQ(plan.samples, n);
    EXPECT_EQ(std::ssize(plan.seen), std::min<std::int64_t>(n, 512));
    const auto bytes = static_cast<double>(made.index().bytes());
    EXPECT_NEAR(static_cast<double>(plan.bytes), bytes, 0.1 * bytes);
  }
}

}  // namespace
}  // namespace thinwire
