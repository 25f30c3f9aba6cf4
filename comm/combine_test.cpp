#include "comm/combine.h"

#include <gtest/gtest.h>

#include <cmath>
#include <span>
#include <vector>

namespace thinwire {
namespace {

template <class T>
std::byte* bytes(std::vector<T>& v) {
  return reinterpret_cast<std::byte*>(v.data());
}

template <class T>
class CombineTest : public testing::Test {};
using Types = testing::Types<float, double, std::int64_t>;
TYPED_TEST_SUITE(CombineTest, Types);

TYPED_TEST(CombineTest, EveryOpEveryLengthAnyAlias) {
  using T = TypeParam;
  constexpr Element kElement = std::is_same_v<T, float>    ? Element::kFloat32
                               : std::is_same_v<T, double> ? Element::kFloat64
                                                           : Element::kInt64;
  for (const std::size_t n : {0, 1, 15, 16, 17, 100}) {
    std::vector<T> a(n), b(n);
    for (std::size_t i = 0; i < n; ++i) {
      a[i] = static_cast<T>(i);
      b[i] = static_cast<T>(i % 2 == 0 ? 50 : -50);
    }
    for (const auto op : {ReduceOp::kSum, ReduceOp::kMax, ReduceOp::kMin}) {
      std::vector<T> into_new(n), into_low = a, into_high = b;
      combine(op, kElement, bytes(a), bytes(b), bytes(into_new), n);
      combine(op, kElement, bytes(into_low), bytes(b), bytes(into_low), n);
      combine(op, kElement, bytes(a), bytes(into_high), bytes(into_high), n);
      for (std::size_t i = 0; i < n; ++i) {
        const T want = op == ReduceOp::kSum   ? a[i] + b[i]
                       : op == ReduceOp::kMax ? std::max(a[i], b[i])
                                              : std::min(a[i], b[i]);
        EXPECT_EQ(into_new[i], want);
      }
      EXPECT_EQ(into_low, into_new);
      EXPECT_EQ(into_high, into_new);
    }
  }
}

TEST(Combine, ExtremesHandNanOn) {
  std::vector<float> nan{std::nanf(""), 1.0f}, one{1.0f, std::nanf("")}, out(2);
  for (const auto op : {ReduceOp::kSum, ReduceOp::kMax, ReduceOp::kMin}) {
    combine(op, Element::kFloat32, bytes(nan), bytes(one), bytes(out), 2);
    EXPECT_TRUE(std::isnan(out[0]) && std::isnan(out[1]));
  }
}

}  // namespace
}  // namespace thinwire
