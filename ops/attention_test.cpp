#include "ops/attention.h"

#include <ATen/ops/cat.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "ops/test_tensors.h"

namespace thinwire {
namespace {

using test::copy_leaf;
using test::largest_difference;
using test::leaf;
using test::normal;

struct Case {
  std::vector<std::int64_t> query_lengths, key_lengths;
  bool causal = false;
  bool bias = false;  // learned, [1, H, Lq, Lk]
  int extra = 0;      // rows; negative: shared by all sequences
  double scale = 1;
  std::int64_t head_width = 6;
};

// Sequence by sequence and head by head, with no padding anywhere. bias: the
// learned part alone, [1, H, Lq, Lk].
at::Tensor by_hand(const AttentionInputs& in, const at::Tensor& bias,
                   bool causal, const at::Tensor& weight_factor) {
  const std::int64_t width = in.q.size(1), d = width / in.heads;
  std::vector<at::Tensor> rows;
  for (std::size_t b = 0; b + 1 < in.queries->offsets.size(); ++b) {
    const auto place = static_cast<std::int64_t>(b);
    const std::int64_t q0 = in.queries->offsets[b], k0 = in.keys->offsets[b];
    const std::int64_t lq = in.queries->offsets[b + 1] - q0;
    const std::int64_t lk = in.keys->offsets[b + 1] - k0;
    std::vector<at::Tensor> heads;
    for (std::int64_t h = 0; h < in.heads; ++h) {
      const at::Tensor q = in.q.narrow(0, q0, lq).narrow(1, h * d, d);
      at::Tensor k = in.k.narrow(0, k0, lk).narrow(1, h * d, d);
      at::Tensor v = in.v.narrow(0, k0, lk).narrow(1, h * d, d);
      at::Tensor scores = q.matmul(k.t()).mul(in.scale);
      if (bias.defined()) {
        scores = scores.add(bias[0][h].narrow(0, 0, lq).narrow(1, 0, lk));
      }
      if (causal) {
        at::Tensor mask = at::empty({lq, lk});
        for (std::int64_t i = 0; i < lq; ++i) {
          for (std::int64_t j = 0; j < lk; ++j) {
            mask[i][j] = j <= i ? 0.0 : -INFINITY;
          }
        }
        scores = scores.add(mask);
      }
      if (in.extra_k.defined()) {
        const bool shared = in.extra_k.dim() == 2;
        const at::Tensor ek =
            (shared ? in.extra_k : in.extra_k[place]).narrow(1, h * d, d);
        const at::Tensor ev =
            (shared ? in.extra_v : in.extra_v[place]).narrow(1, h * d, d);
        scores = at::cat({q.matmul(ek.t()).mul(in.scale), scores}, 1);
        v = at::cat({ev, v}, 0);
      }
      at::Tensor weights = scores.softmax(-1);
      if (weight_factor.defined()) {
        weights = weights.mul(weight_factor[place][h].narrow(0, 0, lq).narrow(
            1, 0, weights.size(1)));
      }
      heads.push_back(weights.matmul(v));
    }
    rows.push_back(at::cat(heads, 1));
  }
  return at::cat(rows, 0);
}

void check(const Case& c, double p) {
  constexpr std::int64_t kHeads = 2;
  std::vector<std::uint64_t> ids;
  for (std::size_t b = 0; b < c.query_lengths.size(); ++b) ids.push_back(b + 3);
  const Layout queries = make_layout(c.query_lengths, ids);
  const Layout keys = make_layout(c.key_lengths, ids);
  const std::int64_t width = kHeads * c.head_width;
  AttentionInputs in;
  in.q = leaf("q", {queries.rows(), width});
  in.k = leaf("k", {keys.rows(), width});
  in.v = leaf("v", {keys.rows(), width});
  in.queries = &queries;
  in.keys = &keys;
  in.heads = kHeads;
  in.scale = c.scale;
  in.dropout = p;
  in.key = {.seed = 1, .step = 2, .site = 3};
  if (c.extra != 0) {
    const std::int64_t n = std::abs(c.extra);
    const std::vector<std::int64_t> shape =
        c.extra < 0 ? std::vector<std::int64_t>{n, width}
                    : std::vector<std::int64_t>{queries.batch(), n, width};
    in.extra_k = leaf("ek", shape);
    in.extra_v = leaf("ev", shape);
  }
  at::Tensor learned;
  if (c.bias)
    learned = leaf("b", {1, kHeads, queries.max_length, keys.max_length});
  const at::Tensor mask = attention_mask(queries, keys, c.causal);
  in.bias = learned;
  if (mask.defined()) in.bias = c.bias ? learned.add(mask) : mask;

  AttentionInputs twin = in;
  at::Tensor twin_bias;
  for (at::Tensor* t :
       {&twin.q, &twin.k, &twin.v, &twin.extra_k, &twin.extra_v}) {
    if (t->defined()) *t = copy_leaf(*t);
  }
  if (c.bias) twin_bias = copy_leaf(learned);
  at::Tensor factor;
  if (p > 0) {
    at::Tensor ones = at::empty({queries.batch(), kHeads, queries.max_length,
                                 std::abs(c.extra) + keys.max_length});
    factor = dropout_attention(ones.fill_(1.0), p, in.key, queries);
  }

  const at::Tensor out = attention(in);
  const at::Tensor want = by_hand(twin, twin_bias, c.causal, factor);
  EXPECT_LT(largest_difference(out, want), 1e-5);
  const at::Tensor g = normal("g", {queries.rows(), width});
  out.mul(g).sum().backward();
  want.mul(g).sum().backward();
  EXPECT_LT(largest_difference(in.q.grad(), twin.q.grad()), 2e-5);
  EXPECT_LT(largest_difference(in.k.grad(), twin.k.grad()), 2e-5);
  EXPECT_LT(largest_difference(in.v.grad(), twin.v.grad()), 2e-5);
  if (c.extra != 0) {
    EXPECT_LT(largest_difference(in.extra_k.grad(), twin.extra_k.grad()), 2e-5);
    EXPECT_LT(largest_difference(in.extra_v.grad(), twin.extra_v.grad()), 2e-5);
  }
  if (c.bias) {
    EXPECT_LT(largest_difference(learned.grad(), twin_bias.grad()), 2e-5);
  }

  // Without a graph the numbers are the same: bit for bit where the kernel is.
  AttentionInputs plain = in;
  for (at::Tensor* t : {&plain.q, &plain.k, &plain.v, &plain.bias,
                        &plain.extra_k, &plain.extra_v}) {
    if (t->defined()) *t = t->detach();
  }
  EXPECT_LE(largest_difference(attention(plain), out),
            c.head_width < 64 ? 0 : 1e-5);
}

TEST(Attention, MatchesSequenceBySequence) {
  const std::vector<Case> cases{
      {{4, 4}, {4, 4}},
      {{4, 2, 3}, {4, 2, 3}, false, true},
      {{3, 3}, {3, 3}, true, true, 0, 0.5},
      {{4, 2, 3}, {4, 2, 3}, true, false, 0, 0.5},
      {{2, 3}, {5, 1}, false, true},           // cross
      {{3, 3}, {4, 4}, false, false, 0, 0.3},  // cross, no mask at all
      {{4, 2, 3}, {4, 2, 3}, false, true, 2},
      {{4, 2, 3}, {4, 2, 3}, true, false, -3},
      {{3, 3}, {3, 3}, false, false, -2},
      // Wide heads, then long keys: the blocked kernel without and with a
      // graph, its mask learned or not.
      {{4, 2, 3}, {4, 2, 3}, true, false, 2, 0.125, 64},
      {{4, 2, 3}, {4, 2, 3}, false, true, 0, 0.125, 64},
      {{3, 2}, {260, 100}, false, false, 0, 0.125, 64},
      {{3, 2}, {260, 100}, false, false, 2, 0.125, 64},
      {{3, 3}, {260, 260}, false, false, -3, 0.125, 64},
  };
  for (std::size_t i = 0; i < cases.size(); ++i) {
    for (const double p : {0.0, 0.3}) {
      SCOPED_TRACE(testing::Message() << "case " << i << " dropout " << p);
      check(cases[i], p);
    }
  }
}

TEST(Attention, DoesNotTouchItsInputs) {
  const Layout l = make_layout({3, 3}, {0, 1});
  AttentionInputs in;
  in.q = normal("q", {6, 8});
  in.k = normal("k", {6, 8});
  in.v = normal("v", {6, 8});
  in.queries = in.keys = &l;
  in.heads = 2;
  in.bias = normal("b", {1, 2, 3, 3});
  attention(in);
  EXPECT_EQ(largest_difference(in.q, normal("q", {6, 8})), 0);
  EXPECT_EQ(largest_difference(in.k, normal("k", {6, 8})), 0);
  EXPECT_EQ(largest_difference(in.v, normal("v", {6, 8})), 0);
  EXPECT_EQ(largest_difference(in.bias, normal("b", {1, 2, 3, 3})), 0);
}

TEST(AttentionMask, PaddingAndFuture) {
  const Layout ragged = make_layout({1, 3}, {0, 1});
  const Layout uniform = make_layout({3, 3}, {0, 1});
  EXPECT_FALSE(attention_mask(ragged, uniform, false).defined());
  const at::Tensor causal = attention_mask(uniform, uniform, true);
  EXPECT_EQ(causal.sizes(), (std::vector<std::int64_t>{1, 1, 3, 3}));
  const at::Tensor both = attention_mask(ragged, ragged, true);
  ASSERT_EQ(both.sizes(), (std::vector<std::int64_t>{2, 1, 3, 3}));
  constexpr float kNever = std::numeric_limits<float>::lowest();
  for (int i = 0; i < 3; ++i) {
    for (int j = 0; j < 3; ++j) {
      EXPECT_EQ(causal[0][0][i][j].item<float>(), j <= i ? 0 : kNever);
      EXPECT_EQ(both[1][0][i][j].item<float>(), j <= i ? 0 : kNever);
      EXPECT_EQ(both[0][0][i][j].item<float>(), j == 0 ? 0 : kNever);
    }
  }
}

TEST(AttentionMask, CausalFollowsGivenPositions) {
  const Layout query = make_layout({1, 1}, {0, 1}, {1, 2});
  const Layout keys = make_layout({3, 3}, {0, 1});
  const at::Tensor mask = attention_mask(query, keys, true);
  ASSERT_EQ(mask.sizes(), (std::vector<std::int64_t>{2, 1, 1, 3}));
  EXPECT_EQ(mask[0][0][0][1].item<float>(), 0);
  EXPECT_LT(mask[0][0][0][2].item<float>(), -1e38f);
  EXPECT_EQ(mask[1][0][0][2].item<float>(), 0);
}

}  // namespace
}  // namespace thinwire
