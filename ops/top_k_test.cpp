#include "ops/top_k.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <numeric>

#include "base/error.h"
#include "ops/test_tensors.h"

namespace thinwire {
namespace {

using test::normal;

// By a full sort of (score descending or ascending, position ascending).
std::vector<std::vector<std::int64_t>> by_sort(
    const std::vector<at::Tensor>& scores, std::int64_t k, Extreme which) {
  std::vector<std::pair<float, std::pair<std::size_t, std::int64_t>>> all;
  for (std::size_t t = 0; t < scores.size(); ++t) {
    const auto* x = scores[t].const_data_ptr<float>();
    for (std::int64_t i = 0; i < scores[t].numel(); ++i) {
      all.push_back({x[i], {t, i}});
    }
  }
  std::stable_sort(all.begin(), all.end(), [&](const auto& a, const auto& b) {
    return which == Extreme::kLargest ? a.first > b.first : a.first < b.first;
  });
  std::vector<std::vector<std::int64_t>> out(scores.size());
  for (std::int64_t i = 0; i < k; ++i) {
    const auto& place = all[static_cast<std::size_t>(i)].second;
    out[place.first].push_back(place.second);
  }
  for (auto& places : out) std::sort(places.begin(), places.end());
  return out;
}

void expect_same(const std::vector<at::Tensor>& scores, std::int64_t k,
                 Extreme which) {
  const auto want = by_sort(scores, k, which);
  const std::vector<at::Tensor> got = top_k_indices(scores, k, which);
  ASSERT_EQ(got.size(), scores.size());
  for (std::size_t t = 0; t < got.size(); ++t) {
    ASSERT_EQ(got[t].scalar_type(), at::kInt);
    const auto* p = got[t].const_data_ptr<std::int32_t>();
    EXPECT_EQ(std::vector<std::int64_t>(p, p + got[t].numel()), want[t])
        << "tensor " << t << " k " << k;
  }
}

void expect_same(const std::vector<at::Tensor>& scores, std::int64_t k) {
  expect_same(scores, k, Extreme::kLargest);
  expect_same(scores, k, Extreme::kSmallest);
}

TEST(TopK, EqualsASort) {
  const std::vector<at::Tensor> scores{
      normal("a", {13, 17}).square(), normal("b", {5}).square().mul(1e-8),
      normal("c", {0}), normal("d", {1000}).square()};
  for (const std::int64_t k : {0, 1, 2, 5, 100, 600, 1225, 1226}) {
    expect_same(scores, k);
  }
}

TEST(TopK, ManyTiesAndZeros) {
  // Few distinct values, zeros, subnormals, -0 and the largest float.
  const at::Tensor coarse = normal("a", {400}).abs().mul(2).floor();
  at::Tensor edge = at::empty({6});
  edge[0] = 0.0;
  edge[1] = -0.0;
  edge[2] = 1e-45;
  edge[3] = 3.4028234e38;
  edge[4] = 1.0;
  edge[5] = 0.0;
  const std::vector<at::Tensor> scores{coarse, edge, coarse.clone()};
  for (std::int64_t k = 0; k <= 806; k += 13) expect_same(scores, k);
  expect_same(scores, 806);
}

TEST(TopK, AllZeroTakesTheFirst) {
  const std::vector<at::Tensor> scores{normal("a", {3}).zero_(),
                                       normal("b", {4}).zero_()};
  for (std::int64_t k = 0; k <= 7; ++k) expect_same(scores, k);
}

TEST(TopK, Refusals) {
  for (const float bad : {-1.0f, NAN, INFINITY, -INFINITY}) {
    at::Tensor x = normal("a", {5}).square();
    x[3] = bad;
    const std::vector<at::Tensor> scores{x};
    EXPECT_THROW(top_k_indices(scores, 1), UsageError) << bad;
  }
  const std::vector<at::Tensor> scores{normal("a", {5}).square()};
  EXPECT_THROW(top_k_indices(scores, 6), UsageError);
  EXPECT_THROW(top_k_indices(scores, -1), UsageError);
}

}  // namespace
}  // namespace thinwire
