#include "peft/kept_numbers.h"

#include <ATen/ops/tensor.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <numeric>

#include "base/error.h"
#include "ops/test_tensors.h"

namespace thinwire {
namespace {

using test::normal;
using Counts = std::vector<std::int64_t>;

std::vector<std::int64_t> list(const at::Tensor& t) {
  const auto* p = t.const_data_ptr<std::int32_t>();
  return {p, p + t.numel()};
}

TEST(KeptNumbers, ExactShareDoesNotRoundLikeADouble) {
  EXPECT_EQ(exact_share(0.0008, 108311810), 86649);
  EXPECT_EQ(exact_share(0.29, 100), 29);  // 0.29 * 100 < 29 in floating point
  EXPECT_EQ(exact_share(0.07, 100), 7);
  EXPECT_EQ(exact_share(1, 11135332352), 11135332352);
  EXPECT_EQ(exact_share(1e-9, 999999999), 0);
}

TEST(KeptNumbers, SharesAddUpAndLargeRemaindersComeFirst) {
  EXPECT_EQ(shares_of(10, Counts{1, 1, 1}), (Counts{4, 3, 3}));
  EXPECT_EQ(shares_of(7, Counts{30, 20, 10}),
            (Counts{4, 2, 1}));  // 3.5 2.3 1.2
  EXPECT_EQ(shares_of(5, Counts{0, 7}), (Counts{0, 5}));
  // 5/6, 10/6, 0, 5/6, 10/6: 2 in floors; then remainders of 5, 5, 4 and 4.
  EXPECT_EQ(shares_of(5, Counts{1, 2, 0, 1, 2}), (Counts{1, 2, 0, 1, 1}));
  EXPECT_EQ(shares_of(0, Counts{3, 4}), (Counts{0, 0}));
  EXPECT_EQ(shares_of(7, Counts{3, 4}), (Counts{3, 4}));
  // Products beyond 64 bits.
  EXPECT_EQ(shares_of(7'000'000'000, Counts{5'000'000'000, 5'000'000'001, 1}),
            (Counts{3'500'000'000 - 1, 3'500'000'000, 1}));
  // BERT-base, bottlenecks of 64: floor(0.2 * 2 359 296), of 48 matrices.
  const Counts shares = shares_of(471859, Counts(48, 49152));
  EXPECT_EQ(std::accumulate(shares.begin(), shares.end(), std::int64_t{0}),
            471859);
  EXPECT_EQ(std::ranges::count(shares, 9830), 48 - 19);
  EXPECT_EQ(std::ranges::count(shares, 9831), 19);
}

// Alike matrices have alike quotas; else kept shares go as (m + n) / (m n),
// up to all of a matrix.
TEST(KeptNumbers, ErdosRenyiGivesSmallMatricesMore) {
  EXPECT_EQ(erdos_renyi_quotas(std::vector<Counts>(4, {8, 6}), 100),
            Counts(4, 25));
  const std::vector<Counts> shapes = {{10, 20}, {100, 50}, {40, 40}};
  const Counts quotas = erdos_renyi_quotas(shapes, 1000);
  EXPECT_EQ(quotas[0] + quotas[1] + quotas[2], 1000);
  // 30 : 150 : 80 of 1000, the first at most 200.
  EXPECT_EQ(quotas, (Counts{115, 577, 308}));
  const Counts capped = erdos_renyi_quotas(shapes, 3000);  // 346 of the first
  EXPECT_EQ(capped, (Counts{200, 1826, 974}));
  EXPECT_EQ(erdos_renyi_quotas(shapes, 6800), (Counts{200, 5000, 1600}));
}

std::vector<Counts> by_definition(const std::vector<at::Tensor>& scores,
                                  std::int64_t k) {
  struct Number {
    float score;
    std::size_t tensor;
    std::int64_t at;
  };
  std::vector<Number> all;
  for (std::size_t t = 0; t < scores.size(); ++t) {
    for (std::int64_t i = 0; i < scores[t].numel(); ++i) {
      all.push_back({scores[t].const_data_ptr<float>()[i], t, i});
    }
  }
  std::ranges::stable_sort(all, std::greater<>(), &Number::score);
  std::vector<Counts> out(scores.size());
  for (std::int64_t i = 0; i < k; ++i) {
    const Number& n = all[static_cast<std::size_t>(i)];
    out[n.tensor].push_back(n.at);
  }
  for (Counts& c : out) std::ranges::sort(c);
  return out;
}

// GraSP's are of either sign; many are equal here, and some are 0.
TEST(KeptNumbers, ScoresOfEitherSignEqualOnesByPosition) {
  for (const bool negative : {true, false}) {
    std::vector<at::Tensor> scores = {normal("a", {5, 7}).mul(2).round(),
                                      normal("b", {3}).mul(2).round(),
                                      normal("c", {4, 4}).mul(2).round()};
    if (!negative) {
      for (at::Tensor& s : scores) s.abs_();
    }
    for (std::int64_t k = 0; k <= 54; ++k) {
      const auto kept = keep_largest(scores, k);
      const auto want = by_definition(scores, k);
      for (std::size_t t = 0; t < scores.size(); ++t) {
        EXPECT_EQ(list(kept[t]), want[t]) << k;
      }
    }
    const auto each = keep_quotas(scores, Counts{3, 0, 16});
    EXPECT_EQ(list(each[0]), by_definition({scores[0]}, 3)[0]);
    EXPECT_EQ(each[1].numel(), 0);
    EXPECT_EQ(each[2].numel(), 16);
  }
  EXPECT_THROW(
      keep_largest(std::vector{at::tensor({1.0f, std::nanf(""), -1.0f})}, 1),
      UsageError);
}

}  // namespace
}  // namespace thinwire
