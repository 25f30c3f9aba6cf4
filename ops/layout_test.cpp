#include "ops/layout.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/error.h"
#include "ops/test_tensors.h"

namespace thinwire {
namespace {

using test::largest_difference;
using test::leaf;
using test::normal;
using testing::ElementsAre;

std::vector<std::int64_t> numbers(const at::Tensor& x) {
  const auto* p = x.const_data_ptr<std::int64_t>();
  return {p, p + x.numel()};
}

TEST(Layout, RaggedFields) {
  const Layout l = make_layout({2, 3, 1}, {7, 8, ~std::uint64_t{0}});
  EXPECT_THAT(l.offsets, ElementsAre(0, 2, 5, 6));
  EXPECT_EQ(l.batch(), 3);
  EXPECT_EQ(l.rows(), 6);
  EXPECT_EQ(l.max_length, 3);
  EXPECT_FALSE(l.uniform);
  EXPECT_TRUE(l.contiguous_positions);
  EXPECT_THAT(numbers(l.positions), ElementsAre(0, 1, 0, 1, 2, 0));
  EXPECT_THAT(numbers(l.samples), ElementsAre(7, 7, 8, 8, 8, -1));
  EXPECT_THAT(numbers(l.padded_rows), ElementsAre(0, 1, 3, 4, 5, 6));
}

TEST(Layout, UniformNeedsNoPaddedRows) {
  const Layout l = make_layout({2, 2}, {0, 1});
  EXPECT_TRUE(l.uniform);
  EXPECT_FALSE(l.padded_rows.defined());
}

TEST(Layout, GivenPositions) {
  EXPECT_TRUE(make_layout({2}, {0}, {0, 1}).contiguous_positions);
  const Layout l = make_layout({2, 1}, {0, 1}, {0, 3, 0});
  EXPECT_FALSE(l.contiguous_positions);
  EXPECT_THAT(numbers(l.positions), ElementsAre(0, 3, 0));
}

TEST(Layout, EmptySequenceIsRefused) {
  try {
    make_layout({2, 0}, {4, 5});
    FAIL() << "no error";
  } catch (const UsageError& e) {
    EXPECT_THAT(e.what(), testing::HasSubstr("sample 5"));
  }
  EXPECT_THROW(make_layout({}, {}), UsageError);
}

TEST(Layout, InsertRowsInFront) {
  const Layout l = insert_rows(make_layout({1, 2}, {5, 6}), 2, 0);
  EXPECT_THAT(l.offsets, ElementsAre(0, 3, 7));
  EXPECT_THAT(numbers(l.positions), ElementsAre(0, 1, 2, 0, 1, 2, 3));
  EXPECT_THAT(numbers(l.samples), ElementsAre(5, 5, 5, 6, 6, 6, 6));
  EXPECT_EQ(l.max_length, 4);
  EXPECT_TRUE(l.contiguous_positions);
  EXPECT_THAT(numbers(l.padded_rows), ElementsAre(0, 1, 2, 4, 5, 6, 7));
}

TEST(Layout, InsertRowsShiftsGivenPositionsBehind) {
  const Layout l =
      insert_rows(make_layout({2, 3}, {5, 6}, {0, 4, 1, 2, 9}), 2, 1);
  EXPECT_THAT(numbers(l.positions), ElementsAre(0, 1, 2, 6, 1, 2, 3, 4, 11));
  EXPECT_FALSE(l.contiguous_positions);
}

TEST(Layout, InsertBehindTheEndIsRefused) {
  EXPECT_THROW(insert_rows(make_layout({1, 2}, {5, 6}), 2, 2), UsageError);
}

// Row by row, the plain way.
at::Tensor insert_by_hand(const at::Tensor& x, const at::Tensor& extra,
                          const Layout& l, std::int64_t at) {
  const std::int64_t n = extra.size(-2);
  at::Tensor out = at::empty({l.rows() + l.batch() * n, x.size(1)});
  std::int64_t to = 0;
  for (std::int64_t b = 0; b < l.batch(); ++b) {
    const at::Tensor e = extra.dim() == 2 ? extra : extra.select(0, b);
    const auto begin = l.offsets[static_cast<std::size_t>(b)];
    const auto end = l.offsets[static_cast<std::size_t>(b) + 1];
    for (auto t = begin; t < begin + at; ++t) out.select(0, to++).copy_(x[t]);
    for (std::int64_t i = 0; i < n; ++i) out.select(0, to++).copy_(e[i]);
    for (auto t = begin + at; t < end; ++t) out.select(0, to++).copy_(x[t]);
  }
  return out;
}

TEST(Layout, InsertIntoMatchesHandAndItsGradientSums) {
  for (const std::vector<std::int64_t>& lengths :
       {std::vector<std::int64_t>{2, 4, 1}, {3, 3, 3}}) {
    const Layout l = make_layout(lengths, {0, 1, 2});
    for (const std::int64_t at : {0, 1}) {
      for (const bool shared : {true, false}) {
        SCOPED_TRACE(testing::Message() << "uniform " << l.uniform << " at "
                                        << at << " shared " << shared);
        at::Tensor x = leaf("x", {l.rows(), 5});
        at::Tensor extra = shared ? leaf("e", {2, 5}) : leaf("e", {3, 2, 5});
        const at::Tensor y = insert_into(x, extra, l, at);
        EXPECT_EQ(largest_difference(
                      y, insert_by_hand(x.detach(), extra.detach(), l, at)),
                  0);
        // Row t of the result weighs t + 1, so each row's gradient names where
        // it went.
        at::Tensor weight = at::empty({y.size(0), 1});
        for (std::int64_t t = 0; t < y.size(0); ++t) {
          weight[t][0] = static_cast<double>(t + 1);
        }
        y.mul(weight).sum().backward();
        const Layout longer = insert_rows(l, 2, at);
        at::Tensor want_x = at::empty({l.rows(), 5});
        at::Tensor want_e = at::empty(extra.sizes());
        want_e.zero_();
        for (std::int64_t b = 0; b < 3; ++b) {
          const auto from = l.offsets[static_cast<std::size_t>(b)];
          const auto to = longer.offsets[static_cast<std::size_t>(b)];
          for (std::int64_t i = 0; i < lengths[static_cast<std::size_t>(b)];
               ++i) {
            want_x[from + i] =
                static_cast<double>(to + (i < at ? i : i + 2) + 1);
          }
          for (std::int64_t i = 0; i < 2; ++i) {
            at::Tensor row = shared ? want_e[i] : want_e[b][i];
            row.add_(static_cast<double>(to + at + i + 1));
          }
        }
        EXPECT_EQ(largest_difference(x.grad(), want_x), 0);
        EXPECT_EQ(largest_difference(extra.grad(), want_e), 0);
      }
    }
  }
}

TEST(Layout, PadAndUnpad) {
  const Layout l = make_layout({2, 3, 1}, {0, 1, 2});
  at::Tensor x = leaf("x", {6, 4});
  const at::Tensor padded = pad_rows(x, l);
  ASSERT_EQ(padded.sizes(), (std::vector<std::int64_t>{3, 3, 4}));
  const at::Tensor flat = padded.flatten(0, 1);
  EXPECT_EQ(largest_difference(flat.index_select(0, l.padded_rows), x), 0);
  EXPECT_EQ(padded.ne(0).sum().item<std::int64_t>(), 24);  // zeros elsewhere
  EXPECT_EQ(largest_difference(unpad_rows(padded, l), x), 0);

  const at::Tensor weight = normal("w", {3, 3, 4});
  padded.mul(weight).sum().backward();
  EXPECT_EQ(largest_difference(
                x.grad(), weight.flatten(0, 1).index_select(0, l.padded_rows)),
            0);
  at::Tensor y = leaf("y", {3, 3, 4});
  const at::Tensor row_weight = normal("r", {6, 4});
  unpad_rows(y, l).mul(row_weight).sum().backward();
  EXPECT_EQ(largest_difference(y.grad(), pad_rows(row_weight, l)), 0);
}

TEST(Layout, UniformPadIsAView) {
  const Layout l = make_layout({3, 3}, {0, 1});
  const at::Tensor x = normal("x", {6, 4});
  const at::Tensor padded = pad_rows(x, l);
  EXPECT_EQ(padded.const_data_ptr(), x.const_data_ptr());
  EXPECT_EQ(unpad_rows(padded, l).const_data_ptr(), x.const_data_ptr());
}

TEST(Layout, PadKeepsOtherTypes) {
  const Layout l = make_layout({2, 1}, {0, 1});
  const at::Tensor padded = pad_rows(l.samples, l);
  EXPECT_THAT(numbers(padded), ElementsAre(0, 0, 1, 0));
}

}  // namespace
}  // namespace thinwire
