// Buckets that leave while backward runs hold the same sums as if they had
// waited, whatever part of the graph a step leaves out.
#include "dist/exchange.h"

#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/full.h>
#include <ATen/ops/zeros.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
// A recomputed block is a custom function.
#include <torch/csrc/autograd/custom_function.h>

#include <cmath>

#include "base/error.h"
#include "base/random.h"
#include "comm/communicator.h"
#include "comm/threads.h"
#include "dist/bucket_plan.h"
#include "models/parameters.h"

namespace thinwire {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

Delta make_delta(const std::vector<std::int64_t>& counts,
                 const std::vector<std::string>& codecs = {}) {
  DeltaBuilder builder;
  for (std::size_t i = 0; i < counts.size(); ++i) {
    DeltaEntry e;
    e.name = "entry " + std::to_string(i);
    e.shape = {counts[i]};
    if (!codecs.empty()) {
      e.group = builder.group({.name = codecs[i], .codec = codecs[i]});
    }
    builder.add(e, at::full(e.shape, 1, at::kFloat));
  }
  return builder.build();
}

std::vector<std::pair<std::int64_t, std::int64_t>> ranges(
    const std::vector<Bucket>& buckets) {
  std::vector<std::pair<std::int64_t, std::int64_t>> out;
  for (const Bucket& b : buckets) out.emplace_back(b.offset, b.count);
  return out;
}

using Range = std::pair<std::int64_t, std::int64_t>;

TEST(BucketPlan, CutsAtEntriesAndSplitsHugeOnes) {
  const Delta delta = make_delta({100, 0, 100, 101, 1000, 60});
  // 256 numbers a bucket; entry 3 ends in a gap.
  const auto buckets = plan_buckets(delta, Codec::kFp32, 1024, {});
  EXPECT_THAT(ranges(buckets),
              ElementsAre(Range(1304, 60), Range(1072, 232), Range(816, 256),
                          Range(560, 256), Range(304, 256), Range(200, 104),
                          Range(0, 200)));
}

TEST(BucketPlan, TheOrderMovesNoCut) {
  const Delta delta = make_delta({200, 200, 200, 0});
  const auto plain = plan_buckets(delta, Codec::kBf16, 1024, {});
  const std::vector<int> order = {1, 3, 0, 2};
  const auto other = plan_buckets(delta, Codec::kBf16, 1024, order);
  EXPECT_THAT(ranges(plain),
              ElementsAre(Range(400, 200), Range(200, 200), Range(0, 200)));
  EXPECT_THAT(ranges(other),
              ElementsAre(Range(200, 200), Range(0, 200), Range(400, 200)));
}

TEST(BucketPlan, OneCodecABucket) {
  const Delta delta =
      make_delta({40, 40, 40, 40}, {"default", "fp32", "fp32", "default"});
  const auto buckets = plan_buckets(delta, Codec::kInt8, 1 << 20, {});
  EXPECT_THAT(ranges(buckets),
              ElementsAre(Range(120, 40), Range(40, 80), Range(0, 40)));
  EXPECT_EQ(buckets[0].codec, Codec::kInt8);
  EXPECT_EQ(buckets[1].codec, Codec::kFp32);
  const Delta wrong = make_delta({4}, {"int9"});
  EXPECT_THROW(plan_buckets(wrong, Codec::kFp32, 1024, {}), UsageError);
}

TEST(BucketPlan, UnreachedEntriesStandBesideTheirNeighbours) {
  const Delta delta = make_delta({4, 4, 4, 4, 4});
  const std::vector<int> reached = {3, 1};
  EXPECT_THAT(complete_order(delta, reached), ElementsAre(4, 3, 2, 1, 0));
  EXPECT_THAT(complete_order(delta, std::vector<int>{0, 3}),
              ElementsAre(0, 4, 3, 2, 1));
}

constexpr std::int64_t kCount = 300;  // of each entry: a bucket of its own

// w with a constant gradient c, computed again in backward.
struct Recomputed : torch::autograd::Function<Recomputed> {
  static at::Tensor forward(torch::autograd::AutogradContext* ctx,
                            const at::Tensor& w, double c) {
    ctx->saved_data["c"] = c;
    return w.mul(c).sum();
  }
  static torch::autograd::variable_list backward(
      torch::autograd::AutogradContext* ctx,
      torch::autograd::variable_list grads) {
    const double c = ctx->saved_data["c"].toDouble();
    return {at::full({kCount}, c).mul(grads[0]), at::Tensor()};
  }
};

// Layer i of the toy has entry i; entry 0 is shared by all layers; entries
// kTaskA and kTaskB belong to one task each. Which layers a micro-batch drops,
// which task it has and every gradient are functions of (rank, step, batch).
constexpr int kLayers = 12, kTaskA = 13, kTaskB = 14, kEntries = 15;
constexpr int kAccumulation = 3;

struct Draw {
  int rank, step, batch;
  std::uint32_t operator()(int what) const {
    return philox(
        make_key(3, Purpose::kTest),
        {static_cast<std::uint32_t>(what), static_cast<std::uint32_t>(step),
         static_cast<std::uint32_t>(batch),
         static_cast<std::uint32_t>(rank)})[0];
  }
  bool dropped(int layer) const { return (*this)(layer) % 4 == 0; }
  bool recomputed(int layer) const { return (*this)(100 + layer) % 2 == 0; }
  int slope(int layer) const {
    return static_cast<int>((*this)(200 + layer) % 100);
  }
  int task() const { return (*this)(300) % 2 == 0 ? kTaskA : kTaskB; }
  bool nothing() const { return (*this)(301) % 40 == 0; }  // no graph at all
};

at::Tensor loss_of(const Delta& delta, const Draw& draw) {
  at::Tensor loss = at::zeros({});
  if (draw.nothing()) return loss;
  const auto use = [&](int entry, int slope, bool again) {
    const at::Tensor& leaf = delta.leaf(entry);
    loss = loss.add(again ? Recomputed::apply(leaf, slope)
                          : leaf.mul(slope).sum());
  };
  for (int layer = 1; layer <= kLayers; ++layer) {
    if (draw.dropped(layer)) continue;
    use(0, 1, draw.recomputed(layer));
    use(layer, draw.slope(layer), draw.recomputed(layer));
  }
  use(draw.task(), draw.slope(0), false);
  return loss;
}

void add_expected(const Draw& draw, std::vector<float>& sums) {
  if (draw.nothing()) return;
  for (int layer = 1; layer <= kLayers; ++layer) {
    if (draw.dropped(layer)) continue;
    sums[0] += 1;
    sums[static_cast<std::size_t>(layer)] +=
        static_cast<float>(draw.slope(layer));
  }
  sums[static_cast<std::size_t>(draw.task())] +=
      static_cast<float>(draw.slope(0));
}

TEST(Exchange, AThousandStepsOfOddGraphsWithoutAMismatch) {
  constexpr int kSteps = 1000, kRanks = 2;
  run_ranks(kRanks, [&](Communicator& comm) {
    Delta delta = make_delta(std::vector<std::int64_t>(kEntries, kCount));
    const Parameters parameters;
    const ExchangeOptions options;
    Exchange exchange(comm, options, delta, parameters,
                      {.bucket_bytes = 4 * kCount, .link = {}, .order = {}},
                      "toy");
    ASSERT_EQ(exchange.buckets().size(), kEntries);
    for (int step = 0; step < kSteps; ++step) {
      delta.zero_grads();
      for (int batch = 0; batch < kAccumulation; ++batch) {
        const at::Tensor loss = loss_of(delta, {comm.rank(), step, batch});
        if (batch + 1 == kAccumulation) {
          exchange.begin(static_cast<std::uint64_t>(step), loss);
        }
        if (loss.requires_grad()) loss.backward();
      }
      ASSERT_EQ(exchange.first_nonfinite(), "");
      Guard guard{.weight = 1};
      exchange.finish(guard);
      ASSERT_EQ(guard.weight, kRanks);
      std::vector<float> want(kEntries, 0);
      for (int rank = 0; rank < kRanks; ++rank) {
        for (int batch = 0; batch < kAccumulation; ++batch) {
          add_expected({rank, step, batch}, want);
        }
      }
      for (int e = 0; e < kEntries; ++e) {
        const float* g = delta.grads().const_data_ptr<float>() +
                         delta.entries()[static_cast<std::size_t>(e)].offset;
        for (std::int64_t i = 0; i < kCount; ++i) {
          ASSERT_EQ(g[i], want[static_cast<std::size_t>(e)])
              << "step " << step << ", entry " << e;
        }
      }
    }
  });
}

// The same on all ranks; sums are exact before and after.
TEST(Exchange, RecordsOneOrderAndKeepsTheSums) {
  std::vector<Tuned> tuned(3);
  run_ranks(3, [&](Communicator& comm) {
    Delta delta = make_delta({300, 300, 300, 300});
    const Parameters parameters;
    const ExchangeOptions options;
    Exchange exchange(comm, options, delta, parameters,
                      {.bucket_bytes = 1200, .link = {}, .order = {}}, "toy");
    EXPECT_EQ(exchange.buckets().size(), 4u);
    for (std::uint64_t step = 0; step < 4; ++step) {
      delta.zero_grads();
      // Rank 0 uses the entries in the order 2, 0, 3; the others differ.
      at::Tensor x = delta.leaf(comm.rank() == 0 ? 2 : 1).mul(1);
      x = x.mul(delta.leaf(0));
      x = x.mul(delta.leaf(3));
      exchange.begin(step, x.sum());
      x.sum().backward();
      EXPECT_EQ(exchange.first_nonfinite(), "");
      Guard guard;
      exchange.finish(guard);
      EXPECT_EQ(guard.squares, 3 * 900);
      EXPECT_EQ(delta.grads()[0].item<float>(), 3);
      EXPECT_EQ(delta.grads()[300].item<float>(), 2);
      EXPECT_EQ(delta.grads()[600].item<float>(), 1);
      EXPECT_EQ(delta.grads()[900].item<float>(), 3);
    }
    tuned[static_cast<std::size_t>(comm.rank())] = exchange.tuned();
  });
  EXPECT_EQ(tuned[0].order.size(), 4u);
  EXPECT_EQ(tuned[0], tuned[1]);
  EXPECT_EQ(tuned[0], tuned[2]);
}

TEST(Exchange, RanksOutOfStepAreNamedInTheSameExchange) {
  const auto broken = [](auto tuned_of, auto config_of) {
    std::vector<std::string> texts(3);
    run_ranks(3, [&](Communicator& comm) {
      const int rank = comm.rank();
      Delta delta = make_delta({300, 300});
      const Parameters parameters;
      const ExchangeOptions options;
      Exchange exchange(comm, options, delta, parameters, tuned_of(rank),
                        config_of(rank));
      exchange.begin(5, {});
      Guard guard;
      try {
        exchange.first_nonfinite();
        exchange.finish(guard);
      } catch (const CommError& e) {
        texts[static_cast<std::size_t>(rank)] = e.what();
      }
    });
    return texts;
  };
  const auto tuned = [](int) {
    return Tuned{.bucket_bytes = 4096, .link = {}, .order = {1, 0}};
  };
  const auto config = [](int) { return std::string("toy"); };
  EXPECT_THAT(broken(tuned, config), ElementsAre("", "", ""));
  const auto names_rank_2 = ::testing::Each(HasSubstr("rank 2"));
  const auto other_config = [](int rank) {
    return std::string(rank == 2 ? "a" : "b");
  };
  EXPECT_THAT(broken(tuned, other_config), names_rank_2);
  const auto other_order = [](int rank) {
    return Tuned{
        .bucket_bytes = 1200,
        .link = {},
        .order = rank == 2 ? std::vector<int>{0, 1} : std::vector<int>{1, 0}};
  };
  EXPECT_THAT(broken(other_order, config), names_rank_2);
}

TEST(Exchange, WhatWasNotFiniteIsNamedWhereItWas) {
  run_ranks(2, [&](Communicator& comm) {
    Delta delta = make_delta({300, 300});
    const Parameters parameters;
    const ExchangeOptions options;
    Exchange exchange(comm, options, delta, parameters,
                      {.bucket_bytes = 1200, .link = {}, .order = {}}, "toy");
    const at::Tensor x =
        delta.leaf(0).mul(1).add(delta.leaf(1).mul(comm.rank() == 1 ? NAN : 1));
    const at::Tensor loss = x.sum();
    exchange.begin(0, loss);
    loss.backward();
    EXPECT_EQ(exchange.first_nonfinite(), comm.rank() == 1 ? "entry 1" : "");
    Guard guard;
    exchange.finish(guard);
    EXPECT_TRUE(std::isnan(guard.squares));
    EXPECT_TRUE(std::isnan(delta.grads()[300].item<float>()));
    EXPECT_EQ(delta.grads()[0].item<float>(), 2);
  });
}

}  // namespace
}  // namespace thinwire
