#include "ops/attention.h"

#include <ATen/Parallel.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/zeros.h>
#include <gtest/gtest.h>

#include <array>
#include <cmath>

#include "ops/reference.h"
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
  int bias = 0;   // dimensions of the learned bias; 0: none
  int extra = 0;  // rows; negative: shared by all sequences
  double scale = 1;
  std::int64_t head_width = 6;
};

constexpr std::int64_t kHeads = 2;

// Sequence by sequence and head by head. factor: of the weights, or undefined.
at::Tensor by_hand(const AttentionInputs& in, const at::Tensor& factor) {
  const std::int64_t width = in.q.size(1), d = width / in.heads;
  const auto* query_position =
      in.queries->positions.const_data_ptr<std::int64_t>();
  const auto* key_position = in.keys->positions.const_data_ptr<std::int64_t>();
  std::vector<at::Tensor> rows;
  for (std::size_t b = 0; b + 1 < in.queries->offsets.size(); ++b) {
    const auto place = static_cast<std::int64_t>(b);
    const std::int64_t q0 = in.queries->offsets[b], k0 = in.keys->offsets[b];
    const std::int64_t lq = in.queries->offsets[b + 1] - q0;
    const std::int64_t lk = in.keys->offsets[b + 1] - k0;
    at::Tensor mask = at::zeros({lq, lk});
    for (std::int64_t i = 0; in.causal && i < lq; ++i) {
      for (std::int64_t j = 0; j < lk; ++j) {
        if (key_position[k0 + j] > query_position[q0 + i]) {
          mask.data_ptr<float>()[i * lk + j] = -INFINITY;
        }
      }
    }
    std::vector<at::Tensor> heads;
    for (std::int64_t h = 0; h < in.heads; ++h) {
      const at::Tensor q = in.q.narrow(0, q0, lq).narrow(1, h * d, d);
      at::Tensor k = in.k.narrow(0, k0, lk).narrow(1, h * d, d);
      at::Tensor v = in.v.narrow(0, k0, lk).narrow(1, h * d, d);
      at::Tensor scores = q.matmul(k.t()).mul(in.scale).add(mask);
      if (in.bias.defined()) {
        const at::Tensor mine = in.bias.dim() == 4 ? in.bias[place] : in.bias;
        scores = scores.add(mine[h].narrow(0, 0, lq).narrow(1, 0, lk));
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
      if (factor.defined()) {
        weights = weights.mul(
            factor[place][h].narrow(0, 0, lq).narrow(1, 0, weights.size(1)));
      }
      heads.push_back(weights.matmul(v));
    }
    rows.push_back(at::cat(heads, 1));
  }
  return at::cat(rows, 0);
}

std::array<at::Tensor*, 6> tensors(AttentionInputs& in) {
  return {&in.q, &in.k, &in.v, &in.bias, &in.extra_k, &in.extra_v};
}

AttentionInputs copy_leaves(AttentionInputs in) {
  for (at::Tensor* t : tensors(in)) {
    if (t->defined()) *t = copy_leaf(*t);
  }
  return in;
}

AttentionInputs make_inputs(const Case& c, const Layout& queries,
                            const Layout& keys, double p) {
  const std::int64_t width = kHeads * c.head_width;
  AttentionInputs in;
  in.q = leaf("q", {queries.rows(), width});
  in.k = leaf("k", {keys.rows(), width});
  in.v = leaf("v", {keys.rows(), width});
  in.queries = &queries;
  in.keys = &keys;
  in.heads = kHeads;
  in.scale = c.scale;
  in.causal = c.causal;
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
  if (c.bias == 3) {
    in.bias = leaf("b", {kHeads, queries.max_length, keys.max_length});
  } else if (c.bias == 4) {
    in.bias = leaf(
        "b", {queries.batch(), kHeads, queries.max_length, keys.max_length});
  }
  return in;
}

std::vector<std::uint64_t> sample_ids(const Case& c) {
  std::vector<std::uint64_t> out;
  for (std::size_t b = 0; b < c.query_lengths.size(); ++b) {
    out.push_back((b << 33) + b + 3);
  }
  return out;
}

// The kernels and the twin in plain operations against by_hand.
void check(const Case& c, double p) {
  const Layout queries = make_layout(c.query_lengths, sample_ids(c));
  const Layout keys = make_layout(c.key_lengths, sample_ids(c));
  const AttentionInputs in = make_inputs(c, queries, keys, p);
  AttentionInputs twin = copy_leaves(in);
  at::Tensor factor;
  if (p > 0) {
    factor =
        dropout_attention(at::ones({queries.batch(), kHeads, queries.max_length,
                                    std::abs(c.extra) + keys.max_length}),
                          p, in.key, queries);
  }
  const at::Tensor want = by_hand(twin, factor);
  const at::Tensor g = normal("g", want.sizes().vec());
  want.mul(g).sum().backward();
  const auto compare = [&](const auto& function) {
    AttentionInputs mine = copy_leaves(in);
    const at::Tensor out = function(mine);
    EXPECT_LT(largest_difference(out, want), 1e-5);
    out.mul(g).sum().backward();
    for (std::size_t i = 0; i < tensors(mine).size(); ++i) {
      if (!tensors(mine)[i]->defined()) continue;
      SCOPED_TRACE(testing::Message() << "gradient " << i);
      EXPECT_LT(largest_difference(tensors(mine)[i]->grad(),
                                   tensors(twin)[i]->grad()),
                2e-5);
    }
    // Without a graph the numbers are the same.
    const at::NoGradGuard no_grad;
    EXPECT_EQ(largest_difference(function(mine), out), 0);
  };
  compare(attention_reference);
  compare(attention);
}

TEST(Attention, MatchesSequenceBySequence) {
  const std::vector<Case> cases{
      {{4, 4}, {4, 4}},
      {{4, 2, 3}, {4, 2, 3}, false, 3},
      {{4, 2, 3}, {4, 2, 3}, false, 4},
      {{3, 3}, {3, 3}, true, 3, 0, 0.5},
      {{4, 2, 3}, {4, 2, 3}, true, 0, 0, 0.5},
      {{2, 3}, {5, 1}, false, 3},          // cross
      {{3, 3}, {4, 4}, false, 0, 0, 0.3},  // cross, no mask at all
      {{1, 1}, {9, 30}, false, 3, 0, 0.3, 8},
      {{1}, {1}, true, 3, 0, 1, 1},
      {{4, 2, 3}, {4, 2, 3}, false, 3, 2},
      {{4, 2, 3}, {4, 2, 3}, true, 0, -3},
      {{3, 3}, {3, 3}, false, 0, -2},
      {{17, 40}, {40, 17}, false, 4, -20, 0.25, 16},
      {{33, 60, 8}, {33, 60, 8}, false, 0, 0, 0.18, 32},
      {{4, 2, 3}, {4, 2, 3}, true, 0, 2, 0.125, 64},
      {{4, 2, 3}, {4, 2, 3}, false, 3, 0, 0.125, 64},
      {{130, 65}, {130, 65}, true, 3, 5, 0.125, 64},
      {{3, 2}, {260, 100}, false, 0, 2, 0.125, 64},
      {{250, 7}, {250, 7}, true, 4, 0, 0.125, 64},
      {{20, 19}, {300, 700}, false, 3, -3, 0.09, 128},
      {{13, 21}, {21, 13}, false, 3, 1, 0.14, 50},
  };
  for (std::size_t i = 0; i < cases.size(); ++i) {
    for (const double p : {0.0, 0.3}) {
      SCOPED_TRACE(testing::Message() << "case " << i << " dropout " << p);
      check(cases[i], p);
    }
  }
}

TEST(Attention, FrozenInputsGetNoGradient) {
  const Case c{{5, 3}, {6, 2}, false, 3, 2};
  const Layout queries = make_layout(c.query_lengths, {0, 1});
  const Layout keys = make_layout(c.key_lengths, {0, 1});
  const at::Tensor g = normal("g", {queries.rows(), 12});
  AttentionInputs all = make_inputs(c, queries, keys, 0.2);
  attention(all).mul(g).sum().backward();
  for (std::size_t i = 0; i < tensors(all).size(); ++i) {
    SCOPED_TRACE(i);
    AttentionInputs one = make_inputs(c, queries, keys, 0.2);
    for (std::size_t j = 0; j < tensors(one).size(); ++j) {
      if (j != i) *tensors(one)[j] = tensors(one)[j]->detach();
    }
    attention(one).mul(g).sum().backward();
    for (std::size_t j = 0; j < tensors(one).size(); ++j) {
      EXPECT_EQ(tensors(one)[j]->grad().defined(), i == j);
    }
    EXPECT_EQ(
        largest_difference(tensors(one)[i]->grad(), tensors(all)[i]->grad()),
        0);
  }
}

TEST(Attention, CausalFollowsGivenPositions) {
  // One query of a sequence whose keys are there already, and one with holes.
  const Layout queries = make_layout({1, 2}, {0, 1}, {1, 2, 9});
  const Layout keys = make_layout({3, 4}, {0, 1}, {0, 1, 2, 0, 2, 5, 9});
  AttentionInputs in = make_inputs({{}, {}, true}, queries, keys, 0);
  const at::Tensor out = attention(in);
  EXPECT_LT(largest_difference(out, by_hand(in, {})), 1e-5);
  EXPECT_LT(largest_difference(attention_reference(in), out), 1e-5);
  // The second key's row has no say in the first sequence's third key.
  out.narrow(0, 0, 1).sum().backward();
  EXPECT_EQ(in.v.grad()[2].abs().max().item<float>(), 0);
  EXPECT_GT(in.v.grad()[1].abs().max().item<float>(), 0);
}

TEST(Attention, SeeingNothingGivesZeros) {
  const Layout queries = make_layout({2}, {0}, {0, 5});
  const Layout keys = make_layout({2}, {0}, {3, 4});
  AttentionInputs in = make_inputs({{}, {}, true}, queries, keys, 0.1);
  const at::Tensor out = attention(in);
  EXPECT_EQ(out[0].abs().max().item<float>(), 0);
  EXPECT_GT(out[1].abs().max().item<float>(), 0);
  out.sum().backward();
  EXPECT_EQ(in.q.grad()[0].abs().max().item<float>(), 0);
  EXPECT_TRUE(in.k.grad().isfinite().all().item<bool>());
}

TEST(Attention, SameBitsOnAnyNumberOfThreads) {
  const Case c{{40, 13, 70}, {40, 13, 70}, false, 3, -4, 0.125, 64};
  const Layout l = make_layout(c.query_lengths, sample_ids(c));
  std::vector<AttentionInputs> runs;
  std::vector<at::Tensor> outs;
  const int before = at::get_num_threads();
  for (const int threads : {1, 2}) {
    at::set_num_threads(threads);
    runs.push_back(make_inputs(c, l, l, 0.1));
    outs.push_back(attention(runs.back()));
    outs.back().square().sum().backward();
  }
  at::set_num_threads(before);
  EXPECT_EQ(largest_difference(outs[0], outs[1]), 0);
  for (std::size_t i = 0; i < tensors(runs[0]).size(); ++i) {
    EXPECT_EQ(largest_difference(tensors(runs[0])[i]->grad(),
                                 tensors(runs[1])[i]->grad()),
              0);
  }
}

TEST(Attention, ReadsRowsOfAWiderMatrix) {
  const Layout l = make_layout({5, 7}, {0, 1});
  AttentionInputs in = make_inputs({{}, {}}, l, l, 0);
  const at::Tensor together = at::cat({in.q, in.k, in.v}, 1).detach();
  AttentionInputs narrow = in;
  narrow.q = together.narrow(1, 0, 12);
  narrow.k = together.narrow(1, 12, 12);
  narrow.v = together.narrow(1, 24, 12);
  EXPECT_EQ(largest_difference(attention(narrow), attention(in)), 0);
}

TEST(Attention, NonFiniteScoresShow) {
  const Layout l = make_layout({3}, {0});
  AttentionInputs in = make_inputs({{}, {}}, l, l, 0);
  in.k.data_ptr<float>()[0] = INFINITY;
  EXPECT_FALSE(attention(in).isfinite().all().item<bool>());
}

TEST(Attention, ReferenceIsUsedOnDemandAndTwiceDifferentiable) {
  const Layout l = make_layout({3, 5}, {0, 1});
  AttentionInputs in = make_inputs({{}, {}, true, 3}, l, l, 0.2);
  {
    const UseReferenceOps reference;
    const at::Tensor out = attention(in);
    EXPECT_EQ(largest_difference(out, attention_reference(in)), 0);
    out.square().sum().backward({}, true, /*create_graph=*/true);
    in.q.grad().sum().backward();
  }
  EXPECT_FALSE(reference_ops());
}

TEST(Attention, DoesNotTouchItsInputs) {
  const Case c{{3, 3}, {3, 3}, false, 3, 1};
  const Layout l = make_layout(c.query_lengths, {0, 1});
  AttentionInputs in = make_inputs(c, l, l, 0.3);
  AttentionInputs before = copy_leaves(in);
  attention(in).sum().backward();
  for (std::size_t i = 0; i < tensors(in).size(); ++i) {
    EXPECT_EQ(largest_difference(*tensors(in)[i], *tensors(before)[i]), 0);
  }
}

}  // namespace
}  // namespace thinwire
