#include "data/task_mix.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <map>
#include <memory>
#include <numeric>
#include <set>

#include "base/error.h"
#include "base/random.h"
#include "data/loader.h"
#include "data/task_folders.h"

namespace thinwire {
namespace {

using Rule = MixingOptions::Rule;

// n samples of ids first, first + 1, …, lengths spread by a hash.
class Counted final : public ShardFolder {
 public:
  Counted(std::int64_t n, std::uint64_t first, const char* tokenizer = "a")
      : first_(first), path_("counted") {
    index_.task_kind = "classify";
    index_.samples = n;
    index_.tokenizer_sha256 = tokenizer;
    lengths_ = lengths(0, n);
  }
  const ShardIndex& index() const override { return index_; }
  const std::string& path() const override { return path_; }
  Digest digest() const override { return {}; }
  std::vector<Sample> read(std::int64_t first,
                           std::int64_t count) const override {
    std::vector<std::int64_t> all(static_cast<std::size_t>(count));
    std::iota(all.begin(), all.end(), first);
    return gather(all);
  }
  std::vector<Sample> gather(
      std::span<const std::int64_t> ascending) const override {
    std::vector<Sample> out;
    for (const std::int64_t i : ascending) {
      Sample s;
      s.id = first_ + static_cast<std::uint64_t>(i);
      s.task = 77;  // what shards say is of no account
      out.push_back(std::move(s));
    }
    return out;
  }
  References references(std::int64_t, std::int64_t count) const override {
    return References(static_cast<std::size_t>(count), {"r"});
  }
  const std::vector<std::int32_t>& lengths() const override { return lengths_; }
  std::vector<std::int32_t> lengths(std::int64_t first,
                                    std::int64_t count) const override {
    std::vector<std::int32_t> out;
    for (std::int64_t i = first; i < first + count; ++i) {
      out.push_back(static_cast<std::int32_t>(
          1 + mix64(first_ + static_cast<std::uint64_t>(i)) % 64));
    }
    return out;
  }
  void verify() const override {}
  const std::vector<std::string>& vocabulary() const override { return none_; }

 private:
  std::uint64_t first_;
  std::string path_;
  ShardIndex index_;
  std::vector<std::int32_t> lengths_;
  std::vector<std::string> none_;
};

// Of 30,000, 700 and 50 samples, ids from 0, 100,000 and 200,000.
std::shared_ptr<const ShardFolder> three() {
  return join_task_folders({std::make_shared<Counted>(30000, 0),
                            std::make_shared<Counted>(700, 100000),
                            std::make_shared<Counted>(50, 200000)});
}

std::vector<double> probabilities(const MixingOptions& o) {
  const std::vector<std::int64_t> samples{30000, 700, 50};
  return task_probabilities(samples, o);
}

TEST(TaskMix, ProbabilitiesFollowTheRule) {
  using ::testing::DoubleNear;
  using ::testing::ElementsAre;
  const auto are = [](double a, double b, double c) {
    const double sum = a + b + c;
    return ElementsAre(DoubleNear(a / sum, 1e-12), DoubleNear(b / sum, 1e-12),
                       DoubleNear(c / sum, 1e-12));
  };
  EXPECT_THAT(probabilities({}), are(30000, 700, 50));
  EXPECT_THAT(probabilities({.cap = 500}), are(500, 500, 50));
  EXPECT_THAT(probabilities({.rule = Rule::kEqual}), are(1, 1, 1));
  EXPECT_THAT(probabilities({.rule = Rule::kEqual, .weights = {1, 2, 3}}),
              are(1, 2, 3));
  EXPECT_THAT(probabilities({.rule = Rule::kTemperature, .temperature = 10}),
              are(std::pow(30000, 0.1), std::pow(700, 0.1), std::pow(50, 0.1)));
  EXPECT_THAT(probabilities({.rule = Rule::kTemperature,
                             .cap = 700,
                             .temperature = 2,
                             .weights = {1, 1, 2}}),
              are(std::sqrt(700), std::sqrt(700), 2 * std::sqrt(50)));
  EXPECT_THROW(probabilities({.cap = -1}), UsageError);
  EXPECT_THROW(probabilities({.temperature = 0}), UsageError);
  EXPECT_THROW(probabilities({.weights = {1, 0, 1}}), UsageError);
}

TEST(TaskMix, BlocksHoldTheirSharesAndCountsGoOn) {
  const std::vector<double> p{0.7, 0.29999, 0.00001};
  TaskMix mix(p, 1);
  EXPECT_EQ(mix.places(0), 11468);  // of 16384: 11468.8, less the place of
  EXPECT_EQ(mix.places(1), 4915);   // 4915.04
  EXPECT_EQ(mix.places(2), 1);      // 0.16
  std::vector<std::uint64_t> count(3);
  for (std::uint64_t draw = 0; draw < 3 * TaskMix::kBlock; ++draw) {
    const TaskMix::Draw d = mix.at(draw);
    ASSERT_EQ(d.count, count[static_cast<std::size_t>(d.task)]++) << draw;
  }
  EXPECT_THAT(count, ::testing::ElementsAre(3 * 11468, 3 * 4915, 3));
  EXPECT_NE(mix.block(0), mix.block(1));
  EXPECT_EQ(mix.block(1), TaskMix(p, 1).block(1));
  EXPECT_NE(mix.block(1), TaskMix(p, 2).block(1));
  // Far away is as near.
  EXPECT_LT(mix.at(std::uint64_t{1} << 60).task, 3);
  // Shuffled: each half of a block has about half of a task's places.
  const auto block = mix.block(0);
  const auto half = std::count(block.begin(), block.begin() + 8192, 0);
  EXPECT_NEAR(static_cast<double>(half), 11468 / 2.0, 150);
}

TEST(TaskFolders, AreOneFolderEndToEnd) {
  const auto all = three();
  EXPECT_EQ(all->index().samples, 30750);
  ASSERT_EQ(all->parts().size(), 3u);
  const auto across = all->read(29998, 704);
  EXPECT_EQ(across.size(), 704u);
  EXPECT_EQ(across[1].id, 29999u);
  EXPECT_EQ(across[1].task, 0);
  EXPECT_EQ(across[2].id, 100000u);
  EXPECT_EQ(across[2].task, 1);
  EXPECT_EQ(across[703].id, 200001u);
  EXPECT_EQ(across[703].task, 2);
  EXPECT_EQ(all->parts()[2]->read(0, 1)[0].task, 2);
  // Random numbers: the first task's are those of a run with it alone.
  EXPECT_EQ(across[1].salt, 0u);
  EXPECT_NE(across[2].salt, 0u);
  EXPECT_NE(across[703].salt, across[2].salt);
  EXPECT_EQ(across[703].salt, all->parts()[2]->read(0, 1)[0].salt);
  const std::vector<std::int64_t> some{0, 29999, 30000, 30749};
  const auto gathered = all->gather(some);
  ASSERT_EQ(gathered.size(), 4u);
  EXPECT_EQ(gathered[3].id, 200049u);
  EXPECT_EQ(all->lengths()[30000], all->parts()[1]->lengths()[0]);
  EXPECT_EQ(all->references(29999, 3).size(), 3u);
  EXPECT_THROW(all->read(30749, 2), UsageError);
  EXPECT_THROW(join_task_folders({std::make_shared<Counted>(3, 0),
                                  std::make_shared<Counted>(3, 0, "b")}),
               UsageError);
}

struct Seen {
  std::vector<std::uint64_t> ids;
  std::vector<std::int32_t> tasks;
  bool operator==(const Seen&) const = default;
};

LoaderOptions options(int ranks, int rank, const MixingOptions& mixing) {
  LoaderOptions o;
  o.batch_size = 24 / ranks;
  o.rank = rank;
  o.ranks = ranks;
  o.mixing = mixing;
  return o;
}

void append(Seen& seen, const SampleBatch& batch) {
  for (const Sample& s : batch.samples) {
    seen.ids.push_back(s.id);
    seen.tasks.push_back(s.task);
  }
}

// `steps` global batches of 24 from `begin` on, put together from the ranks.
Seen sequence(const MixingOptions& mixing, int ranks, int steps,
              std::uint64_t begin = 0) {
  const auto folder = three();
  std::vector<std::unique_ptr<Loader>> loaders;
  for (int r = 0; r < ranks; ++r) {
    loaders.push_back(make_loader(folder, options(ranks, r, mixing)));
    if (begin > 0) loaders.back()->seek(begin);
  }
  Seen out;
  for (int s = 0; s < steps; ++s) {
    for (auto& loader : loaders) append(out, loader->next());
  }
  return out;
}

const MixingOptions kMixed{.rule = Rule::kTemperature, .temperature = 2};
const MixingOptions kOneTask{
    .rule = Rule::kTemperature, .temperature = 2, .one_task = true};

class TaskLoader : public ::testing::TestWithParam<MixingOptions> {};

TEST_P(TaskLoader, TheGlobalOrderDoesNotDependOnTheRanks) {
  const Seen one = sequence(GetParam(), 1, 1500);
  for (const int ranks : {2, 4, 8}) {
    EXPECT_TRUE(sequence(GetParam(), ranks, 1500) == one) << ranks;
  }
}

TEST_P(TaskLoader, SeekContinuesAtTheExactSample) {
  const Seen whole = sequence(GetParam(), 1, 1500);
  for (const int from : {1, 682, 683, 1499}) {
    const Seen rest =
        sequence(GetParam(), 2, 1500 - from, static_cast<std::uint64_t>(from));
    const std::vector<std::uint64_t> tail(whole.ids.begin() + 24 * from,
                                          whole.ids.end());
    EXPECT_TRUE(rest.ids == tail) << from;
  }
}

TEST_P(TaskLoader, EachTaskGoesThroughItsOwnEpochs) {
  const Seen seen = sequence(GetParam(), 1, 1500);
  std::map<std::int32_t, std::vector<std::uint64_t>> by_task;
  for (std::size_t i = 0; i < seen.ids.size(); ++i) {
    by_task[seen.tasks[i]].push_back(seen.ids[i]);
    EXPECT_EQ(seen.tasks[i], static_cast<int>(seen.ids[i] / 100000));
  }
  for (const auto& [task, n] : std::map<int, std::size_t>{{1, 700}, {2, 50}}) {
    const auto& ids = by_task.at(task);
    ASSERT_GT(ids.size(), 2 * n);
    for (const std::size_t epoch : {0u, 1u}) {
      const auto begin = ids.begin() + static_cast<std::ptrdiff_t>(epoch * n);
      const std::set<std::uint64_t> one(begin,
                                        begin + static_cast<std::ptrdiff_t>(n));
      EXPECT_EQ(one.size(), n) << task << " " << epoch;
    }
  }
  // 1,500 steps of 16,384, or 2.2 blocks of samples.
  const auto p = probabilities(GetParam());
  for (const int task : {0, 1, 2}) {
    EXPECT_NEAR(static_cast<double>(by_task.at(task).size()) / 36000,
                p[static_cast<std::size_t>(task)], 0.03);
  }
}

INSTANTIATE_TEST_SUITE_P(Mixing, TaskLoader,
                         ::testing::Values(kMixed, kOneTask),
                         [](const auto& info) {
                           return info.param.one_task ? "OneTask" : "Mixed";
                         });

TEST(TaskLoader, AStepHoldsOneTaskWhateverItsMicroBatches) {
  const auto folder = three();
  LoaderOptions whole = options(1, 0, kOneTask), parts = whole;
  parts.batch_size = 8;
  parts.batches_per_step = 3;
  const auto steps = make_loader(folder, whole);
  const auto micro = make_loader(folder, parts);
  std::set<std::int32_t> tasks;
  for (int s = 0; s < 60; ++s) {
    Seen a, b;
    append(a, steps->next());
    for (int m = 0; m < 3; ++m) append(b, micro->next());
    EXPECT_TRUE(a == b) << s;
    EXPECT_THAT(a.tasks, ::testing::Each(a.tasks[0]));
    tasks.insert(a.tasks[0]);
  }
  EXPECT_EQ(tasks.size(), 3u);
}

}  // namespace
}  // namespace thinwire
