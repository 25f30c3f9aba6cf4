#include "dist/virtual_shards.h"

#include <ATen/ops/randn.h>
#include <ATen/ops/zeros.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/error.h"

namespace thinwire {
namespace {

using testing::HasSubstr;

at::Tensor tree(const std::vector<at::Tensor> &leaves, std::size_t begin,
                std::size_t end) {
  if (end - begin == 1)
    return leaves[begin].clone();
  const std::size_t middle = (begin + end) / 2;
  return tree(leaves, begin, middle).add(tree(leaves, middle, end));
}

TEST(TreeSum, AddsInTheOrderOfTheTree) {
  for (const int n : {1, 2, 4, 8, 16}) {
    TreeSum sum;
    for (int round = 0; round < 2; ++round) {
      std::vector<at::Tensor> leaves;
      at::Tensor grads = at::zeros({1000});
      ShardSums sums;
      for (int i = 0; i < n; ++i) {
        leaves.push_back(at::randn({1000}).mul_(1 << (i % 5)));
        EXPECT_EQ(grads.count_nonzero().item<std::int64_t>(), 0);
        grads.copy_(leaves.back());
        sums = {0.1 * i, 1};
        sum.add(n, grads, sums);
      }
      EXPECT_TRUE(grads.equal(tree(leaves, 0, leaves.size()))) << n;
      EXPECT_EQ(sums.weight, n);
      EXPECT_TRUE(n != 4 || sums.loss == (0.0 + 0.1) + (0.1 * 2 + 0.1 * 3));
    }
  }
}

TEST(TreeSum, SubtreesOfRanksAreOneTree) {
  std::vector<at::Tensor> leaves;
  for (int i = 0; i < 8; ++i)
    leaves.push_back(at::randn({1000}));
  const at::Tensor whole = tree(leaves, 0, 8);
  for (const int ranks : {2, 4, 8}) {
    std::vector<at::Tensor> parts;
    const int each = 8 / ranks;
    for (int r = 0; r < ranks; ++r) {
      TreeSum sum;
      at::Tensor grads = at::zeros({1000});
      ShardSums sums;
      for (int i = 0; i < each; ++i) {
        grads.copy_(leaves[static_cast<std::size_t>(r * each + i)]);
        sum.add(each, grads, sums);
      }
      parts.push_back(grads);
    }
    EXPECT_TRUE(whole.equal(tree(parts, 0, parts.size()))) << ranks;
  }
}

std::string error(std::int64_t shards, std::int64_t batch, int ranks) {
  try {
    VirtualShards(shards, batch, ranks);
  } catch (const UsageError &e) {
    return e.what();
  }
  return "no error";
}

TEST(VirtualShards, RefusesWhatDoesNotFit) {
  for (const int ranks : {1, 2, 4, 8})
    EXPECT_EQ(error(8, 16, ranks), "no error");
  EXPECT_THAT(error(8, 24, 3), HasSubstr("3 ranks cannot share 8 virtual"));
  EXPECT_THAT(error(8, 16, 16), HasSubstr("at most 8"));
  EXPECT_THAT(error(8, 18, 2), HasSubstr("global batch of 18 samples"));
  EXPECT_THAT(error(6, 18, 2), HasSubstr("power of two, got 6"));
}

TEST(VirtualShards, CutTheSamplesOfARankInOrder) {
  const VirtualShards shards(8, 24, 2);
  EXPECT_EQ(shards.samples(), 3);
  EXPECT_EQ(shards.per_rank(), 4);
  std::vector<Sample> samples(12);
  for (std::size_t i = 0; i < samples.size(); ++i)
    samples[i].id = i;
  std::uint64_t next = 0;
  for (int i = 0; i < shards.per_rank(); ++i) {
    for (const Sample &s : shards.shard(samples, i))
      EXPECT_EQ(s.id, next++);
  }
  EXPECT_EQ(next, samples.size());
  samples.pop_back();
  EXPECT_THROW(shards.shard(samples, 0), InternalError);
}

} // namespace
} // namespace thinwire
