// A whole search on tiny models: every number of ranks finds one structure, it
// fits, and what cannot be is said before the first step.
#include "dist/search.h"

#include <gtest/gtest.h>

#include <cmath>

#include "dist/testing.h"

namespace thinwire {
namespace {

using namespace trial;  // dist/testing.h

struct Trial {
  bool text = true;
  SearchOptions search{.budget = 120};
  std::function<void(SearchRun&)> edit = nullptr;
};

struct Found {
  SearchResult result;
  Config config;
  std::vector<SearchRecord> records;
};

Found search(const Trial& trial, Communicator& comm) {
  TempFolder scratch;
  write_file(scratch / "config.json",
             trial.text ? t5_config(0.1) : bert_config(0.1));
  auto backbone = random_backbone(scratch / "config.json", 1);
  const Digest identity = backbone->parameters().identity();
  auto task = make_tiny_task(trial.text);
  task->add_head(*backbone, *random_source(1));
  const auto method =
      make_method("sparse_structure", {{"reduction_factor", 4}});
  GatedModules modules(*backbone, dynamic_cast<const StructureMethod&>(*method),
                       1);
  Found found;
  SearchRun run{
      .comm = &comm,
      .backbone = backbone.get(),
      .identity = identity,
      .task = task.get(),
      .modules = &modules,
      .train = make_folder(64, trial.text, 1),
      .valid = make_folder(48, trial.text, 2),
      .options = {},
      .search = trial.search,
      .on_step = [&](const SearchRecord& r) { found.records.push_back(r); }};
  run.options.steps = 12;
  run.options.lr = 0.02;
  run.options.batch_size = 8 / comm.size();
  if (run.search.batch_size > 0) run.search.batch_size /= comm.size();
  if (trial.edit) trial.edit(run);
  found.result = run_search(run);
  found.config = modules.chosen(found.result.kept);
  return found;
}

std::vector<Found> search(const Trial& trial, int ranks) {
  std::vector<Found> out(static_cast<std::size_t>(ranks));
  run_ranks(ranks, [&](Communicator& comm) {
    out[static_cast<std::size_t>(comm.rank())] = search(trial, comm);
  });
  return out;
}

std::string refusal(const Trial& trial, int ranks = 1) {
  try {
    search(trial, ranks);
  } catch (const UsageError& e) {
    return e.what();
  }
  return "";
}

TEST(Search, RanksFindOneStructure) {
  for (const bool text : {true, false}) {
    for (const bool second_order : {true, false}) {
      Trial trial{.text = text};
      trial.search.second_order = second_order;
      trial.search.batch_size = 16;
      const Found one = search(trial, 1)[0];
      ASSERT_EQ(one.records.size(), 12u);
      EXPECT_EQ(one.records.back().step, 12);
      EXPECT_FALSE(one.result.kept.empty());
      EXPECT_LE(one.result.numbers, 120);
      for (const Found& f : search(trial, 2)) {
        EXPECT_EQ(f.config.dump(), one.config.dump());
        EXPECT_NEAR(f.records[0].train_loss, one.records[0].train_loss, 1e-5);
        EXPECT_NEAR(f.records[0].valid_loss, one.records[0].valid_loss, 1e-5);
        for (std::size_t i = 0; i < f.result.probabilities.size(); ++i) {
          EXPECT_NEAR(f.result.probabilities[i], one.result.probabilities[i],
                      0.02)
              << i;
        }
      }
    }
  }
}

TEST(Search, GatesAndModulesLearn) {
  Trial trial;
  trial.edit = [](SearchRun& run) { run.options.steps = 60; };
  const Found f = search(trial, 1)[0];
  const auto mean = [&](std::size_t first, double SearchRecord::*loss) {
    double sum = 0;
    for (std::size_t i = first; i < first + 10; ++i) sum += f.records[i].*loss;
    return sum / 10;
  };
  EXPECT_LT(mean(50, &SearchRecord::train_loss),
            0.95 * mean(0, &SearchRecord::train_loss));
  EXPECT_LT(mean(50, &SearchRecord::valid_loss),
            0.95 * mean(0, &SearchRecord::valid_loss));
  // Equal at the start, some are now far likelier than others.
  const auto [least, most] = std::ranges::minmax(f.result.probabilities);
  EXPECT_GT(most, 5 * least);
}

// The second-order term is there to change what is found.
TEST(Search, OrdersDiffer) {
  Trial trial;
  const Found second = search(trial, 1)[0];
  trial.search.second_order = false;
  const Found first = search(trial, 1)[0];
  EXPECT_NE(first.result.probabilities, second.result.probabilities);
}

TEST(Search, ABudgetThatCannotBeMetIsRefused) {
  Trial trial;
  trial.search.budget = 3;
  for (const int ranks : {1, 2}) {
    EXPECT_TRUE(refusal(trial, ranks)
                    .ends_with("no module fits a budget of 3 numbers: the "
                               "smallest, bias at "
                               "encoder.block.0.layer.0.SelfAttention.q, has "
                               "12; raise search.budget"))
        << refusal(trial, ranks);
  }
  trial.search.budget = 1e6;
  EXPECT_NE(refusal(trial).find("fit a budget of 1000000 numbers"),
            std::string::npos);
}

TEST(Search, StepsOfSeveralBatchesAreRefused) {
  Trial trial;
  trial.edit = [](SearchRun& run) { run.options.accumulation = 2; };
  EXPECT_NE(refusal(trial).find("train.accumulation must be 1, got 2"),
            std::string::npos);
}

TEST(Search, DivergedItSaysWhere) {
  Trial trial;
  trial.edit = [](SearchRun& run) {
    run.options.lr = 1e30;
    run.options.optimizer = "sgd";
    run.options.clip = 0;
  };
  try {
    search(trial, 1);
    FAIL();
  } catch (const Error& e) {
    EXPECT_NE(std::string(e.what()).find("is not finite (lower train.lr"),
              std::string::npos)
        << e.what();
  }
}

}  // namespace
}  // namespace thinwire
