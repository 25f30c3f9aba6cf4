#include "data/loader.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <memory>
#include <set>
#include <string>
#include <vector>

#include "base/error.h"
#include "data/shard_folder.h"
#include "data/testing.h"

namespace thinwire {
namespace {

using ::testing::HasSubstr;
using ::thinwire::testing::FolderCopy;
using ::thinwire::testing::golden;
using ::thinwire::testing::read_bytes;
using ::thinwire::testing::same;
using ::thinwire::testing::write_bytes;

std::shared_ptr<const ShardFolder> folder() {
  static const auto opened = open_shard_folder(golden("shards_classify"));
  return opened;
}

std::vector<std::uint64_t> ids(const SampleBatch& batch) {
  std::vector<std::uint64_t> out;
  for (const Sample& s : batch.samples) out.push_back(s.id);
  return out;
}

// The ids of `steps` global batches of 24, put together from `ranks` loaders.
std::vector<std::uint64_t> sequence(int ranks, int steps, bool shuffle) {
  std::vector<std::unique_ptr<Loader>> loaders;
  for (int r = 0; r < ranks; ++r) {
    LoaderOptions o;
    o.batch_size = 24 / ranks;
    o.rank = r;
    o.ranks = ranks;
    o.shuffle = shuffle;
    loaders.push_back(make_loader(folder(), o));
  }
  std::vector<std::uint64_t> out;
  for (int s = 0; s < steps; ++s) {
    for (auto& loader : loaders) {
      const SampleBatch batch = loader->next();
      EXPECT_EQ(batch.first_position, static_cast<std::uint64_t>(24 * s));
      EXPECT_EQ(batch.epoch, static_cast<std::uint64_t>(24 * s / 2500));
      const auto part = ids(batch);
      out.insert(out.end(), part.begin(), part.end());
    }
  }
  return out;
}

TEST(Loader, TheGlobalOrderDoesNotDependOnTheRanks) {
  // 240 batches straddle two ends of an epoch (2500 is no multiple of 24).
  const auto one = sequence(1, 240, true);
  for (const int ranks : {2, 4, 8}) {
    EXPECT_EQ(sequence(ranks, 240, true), one) << ranks;
  }
  for (int e = 0; e < 2; ++e) {
    const std::set<std::uint64_t> seen(one.begin() + 2500 * e,
                                       one.begin() + 2500 * (e + 1));
    EXPECT_EQ(seen.size(), 2500u) << "epoch " << e;
  }
}

TEST(Loader, StorageOrderForEvaluation) {
  const auto got = sequence(2, 150, false);
  for (std::size_t i = 0; i < got.size(); ++i) EXPECT_EQ(got[i], i % 2500);
}

TEST(Loader, SamplesAreThoseOfTheFolder) {
  LoaderOptions o;
  const auto loader = make_loader(folder(), o);
  for (int s = 0; s < 5; ++s) {
    for (const Sample& got : loader->next().samples) {
      const auto at = static_cast<std::int64_t>(got.id);
      EXPECT_TRUE(same(got, folder()->read(at, 1)[0]));
    }
  }
  EXPECT_EQ(loader->samples_per_epoch(), 2500u);
}

TEST(Loader, SeekIsTheKthNext) {
  LoaderOptions o;
  o.batch_size = 10;
  o.rank = 1;
  o.ranks = 3;
  o.queue_batches = 2;
  const auto straight = make_loader(folder(), o);
  std::vector<std::vector<std::uint64_t>> all;
  for (int s = 0; s < 200; ++s) all.push_back(ids(straight->next()));
  const auto jumping = make_loader(folder(), o);
  for (const std::size_t k : {199u, 0u, 83u, 84u, 1u, 166u, 167u}) {
    jumping->seek(k);
    EXPECT_EQ(ids(jumping->next()), all[k]) << k;
    if (k + 1 < all.size()) {
      EXPECT_EQ(ids(jumping->next()), all[k + 1]) << k;
    }
  }
}

TEST(Loader, FarAwayIsAsNear) {
  LoaderOptions o;
  const auto a = make_loader(folder(), o);
  const auto b = make_loader(folder(), o);
  const std::uint64_t far = std::uint64_t{1} << 50;
  a->seek(far);
  b->seek(far);
  EXPECT_EQ(ids(a->next()), ids(b->next()));
  a->seek(~std::uint64_t{0});
  EXPECT_THROW(a->next(), UsageError);
}

TEST(Loader, BatchesLargerThanTheFolder) {
  LoaderOptions o;
  o.batch_size = 6000;
  const auto loader = make_loader(folder(), o);
  const auto batch = loader->next();
  std::vector<int> count(2500);
  for (const Sample& s : batch.samples) ++count[s.id];
  for (const int c : count) EXPECT_TRUE(c == 2 || c == 3);
}

TEST(Loader, AnErrorInTheThreadComesOutOfNextAndStays) {
  const FolderCopy copy("shards_classify");
  const auto damaged = open_shard_folder(copy.path());
  std::string bytes = read_bytes(copy.shard(1));
  bytes[2100] = static_cast<char>(bytes[2100] ^ 4);
  write_bytes(copy.shard(1), bytes);
  LoaderOptions o;
  o.shuffle = false;
  const auto loader = make_loader(damaged, o);
  for (int again = 0; again < 2; ++again) {
    try {
      for (int s = 0; s < 80; ++s) loader->next();
      ADD_FAILURE() << "read a damaged shard";
    } catch (const IoError& e) {
      EXPECT_THAT(e.what(), HasSubstr("shard-00001.h5: /input/values: chunk"));
    }
  }
}

TEST(Loader, RefusesWhatCannotBe) {
  LoaderOptions o;
  o.ranks = 2501;
  EXPECT_THROW(make_loader(folder(), o), UsageError);
  o.ranks = 2;
  o.rank = 2;
  EXPECT_THROW(make_loader(folder(), o), UsageError);
  o.rank = 0;
  o.batch_size = 0;
  EXPECT_THROW(make_loader(folder(), o), UsageError);
  o.batch_size = 1;
  o.queue_batches = 0;
  EXPECT_THROW(make_loader(folder(), o), UsageError);

  const FolderCopy none("shards_classify");
  none.edit_index([](nlohmann::json& j) {
    j["samples"] = 0;
    j["shards"] = nlohmann::json::array();
  });
  EXPECT_THROW(make_loader(open_shard_folder(none.path()), {}), UsageError);
}

}  // namespace
}  // namespace thinwire
