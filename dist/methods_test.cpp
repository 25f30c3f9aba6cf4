// What every method must keep in a run, looped over the registry: ranks are
// one, a run that was broken off goes on as if it had not been, what is sent is
// the delta alone, and nothing else moves. Dropout on.
#include <gtest/gtest.h>

#include "data/task_folders.h"
#include "dist/testing.h"
#include "peft/tiny_config.h"

namespace thinwire {
namespace {

using namespace trial;  // dist/testing.h

struct Case {
  std::string method, model;
};

void PrintTo(const Case& c, std::ostream* out) {
  *out << c.method << " on " << c.model;
}

std::vector<Case> cases() {
  std::vector<Case> out;
  for (const MethodInfo& info : methods()) {
    for (const std::string model : {"bert", "gpt2", "t5"}) {
      if (info.id == "head" && model != "bert") continue;
      if (!testing::runs_on(info.id, model)) continue;
      out.push_back({std::string(info.id), model});
    }
  }
  for (const char* method : {"fish_mask", "lora", "lst", "mam"}) {
    out.push_back({method, "bart"});
  }
  return out;
}

class MethodRun : public ::testing::TestWithParam<Case> {
 protected:
  // One global batch of 8, whatever the number of ranks.
  static Job job(int ranks) {
    const Case& c = GetParam();
    Job job;
    job.text = c.model != "bert";
    job.model = c.model == "bart"   ? bart_config(0.1)
                : c.model == "bert" ? bert_config(0.1)
                : c.model == "gpt2" ? gpt2_config(0.1)
                                    : t5_config(0.1);
    Config config = testing::tiny_config(c.method);
    // Of the methods that have one of their own.
    for (const Field& f : find_method(c.method).fields) {
      if (f.name == "dropout") config["dropout"] = 0.2;
    }
    job.methods = {{c.method, config}};
    // Of two tasks, which batches mix.
    job.train = join_task_folders(
        {make_folder(25, job.text, 1), make_folder(16, job.text, 2)});
    job.options.deterministic = true;
    job.options.steps = 4;
    job.options.lr = 0.02;
    job.options.weight_decay = 0.1;
    job.options.batch_size = 8 / ranks;
    return job;
  }
};

TEST_P(MethodRun, RanksAreOne) {
  const Result one = run_job(job(1), 1)[0];
  for (const int ranks : {2, 4}) {
    for (const Result& r : run_job(job(ranks), ranks)) {
      ASSERT_EQ(r.seen.steps.size(), one.seen.steps.size());
      for (std::size_t i = 0; i < one.seen.steps.size(); ++i) {
        EXPECT_EQ(r.seen.steps[i].loss, one.seen.steps[i].loss) << i;
      }
      EXPECT_TRUE(r.values == one.values) << ranks << " ranks";
    }
  }
}

TEST_P(MethodRun, WhatIsSentIsTheDelta) {
  const Result r = run_job(job(2), 2)[0];
  EXPECT_EQ(r.summary.payload_bytes_per_step,
            4 * static_cast<std::int64_t>(r.values.size()));
  // Entries begin at every fourth number.
  EXPECT_GE(r.values.size(),
            static_cast<std::size_t>(r.summary.trainable_parameters));
}

TEST_P(MethodRun, NothingElseMoves) {
  const Result r = run_job(job(1), 1)[0];
  EXPECT_EQ(r.frozen_before, r.frozen_after);
}

TEST_P(MethodRun, ResumedItGoesOnBitForBit) {
  const Result whole = run_job(job(2), 2)[0];
  const TempFolder folder;
  Job broken = job(2);
  broken.folder = folder.path();
  broken.options.checkpoint_every = 2;
  broken.options.keep = 5;
  run_job(broken, 2);
  std::filesystem::remove_all(folder / "checkpoints/step-4");
  broken.resume = true;
  for (const Result& r : run_job(broken, 2)) {
    ASSERT_EQ(r.seen.steps.size(), 2u);
    EXPECT_EQ(r.seen.steps[0].loss, whole.seen.steps[2].loss);
    EXPECT_TRUE(r.values == whole.values);
  }
}

INSTANTIATE_TEST_SUITE_P(Registry, MethodRun, ::testing::ValuesIn(cases()),
                         [](const auto& info) {
                           return info.param.method + "_" + info.param.model;
                         });

}  // namespace
}  // namespace thinwire
