#include "dist/optimizer.h"

#include <ATen/ops/arange.h>
#include <ATen/ops/full.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <string>
#include <vector>

#include "base/error.h"
#include "base/random.h"
#include "dist/gradient.h"
#include "dist/optimizer_testing.h"
#include "models/parameters.h"

namespace thinwire {
namespace {

using trial::fill_grads;
using trial::make_delta;

std::vector<float> entry(const Delta& delta, const at::Tensor& flat,
                         std::string_view name) {
  const DeltaEntry& e =
      delta.entries()[static_cast<std::size_t>(delta.find(name))];
  const float* data = flat.const_data_ptr<float>() + e.offset;
  return {data, data + e.count};
}

at::Tensor find(const NamedTensors& state, std::string_view name) {
  for (const auto& [key, tensor] : state) {
    if (key == name) return tensor;
  }
  return {};
}

class EveryOptimizer : public testing::TestWithParam<const char*> {
 protected:
  static TrainOptions options() {
    TrainOptions o;
    o.optimizer = GetParam();
    o.momentum = o.optimizer == "sgd" ? 0.9 : 0;
    if (o.optimizer == "adafactor") o.beta1 = 0.9;
    o.weight_decay = 0.1;
    return o;
  }
};
INSTANTIATE_TEST_SUITE_P(Optimizer, EveryOptimizer,
                         testing::Values("adamw", "sgd", "lion", "adafactor"));

// A matrix, a mask over one, both late, and a vector in a group that decays
// towards its start.
Delta make_matrices(std::vector<std::int32_t> index = {1, 4, 5, 9, 11}) {
  DeltaBuilder builder;
  const int plain = builder.group({.name = "plain"});
  const int own = builder.group({.name = "own", .decay_to_initial = true});
  const auto add = [&](const char* name, std::vector<std::int64_t> shape,
                       int group) {
    DeltaEntry e;
    e.name = name;
    e.shape = std::move(shape);
    e.group = group;
    if (e.name.ends_with("mask")) {
      e.kind = EntryKind::kMasked;
      e.target = "w." + e.name;
      e.index = at::tensor(index, at::kInt);
      builder.add(e, at::arange(1, 1 + static_cast<std::int64_t>(index.size()),
                                at::kFloat));
      return;
    }
    builder.add(e, at::arange(1, 13, at::kFloat).view(e.shape));
  };
  add("matrix", {3, 4}, plain);
  add("mask", {3, 4}, plain);
  add("vector", {12}, own);
  add("late", {4, 3}, plain);
  add("late mask", {3, 4}, plain);
  return builder.build();
}

void vary_grads(Delta& delta, int seed) {
  delta.zero_grads();
  for (const DeltaEntry& e : delta.entries()) {
    fill_normal(delta.grads().mutable_data_ptr<float>() + e.offset, e.count,
                static_cast<std::uint64_t>(seed), e.name, 1.0f);
  }
}

const std::vector<bool> kEarly = {true, true, true, false, false};
const std::vector<bool> kAll(5, true);

TEST_P(EveryOptimizer, LeavesWhatIsInactiveBitwiseStill) {
  Delta delta = make_matrices();
  Optimizer optimizer(options(), delta);
  const at::Tensor before = delta.snapshot();
  for (int i = 0; i < 3; ++i) {
    vary_grads(delta, i);
    optimizer.step(delta, kEarly, 1e-2, {1, 1});
  }
  for (const char* name : {"late", "late mask"}) {
    EXPECT_EQ(entry(delta, delta.values(), name), entry(delta, before, name));
  }
  for (const char* name : {"matrix", "mask", "vector"}) {
    EXPECT_NE(entry(delta, delta.values(), name), entry(delta, before, name));
  }
  for (const auto& [name, tensor] : optimizer.state()) {
    if (name == "updates" || tensor.numel() != delta.size()) continue;
    if (name == "initial") continue;
    EXPECT_THAT(entry(delta, tensor, "late"), testing::Each(0.f)) << name;
    EXPECT_THAT(entry(delta, tensor, "late mask"), testing::Each(0.f)) << name;
  }
  // Late entries then make the steps that early ones made.
  Delta fresh = make_matrices();
  Optimizer other(options(), fresh);
  for (int i = 0; i < 3; ++i) {
    vary_grads(delta, i);
    vary_grads(fresh, i);
    optimizer.step(delta, kAll, 1e-2, {1, 1});
    other.step(fresh, kAll, 1e-2, {1, 1});
  }
  for (const char* name : {"late", "late mask"}) {
    EXPECT_EQ(entry(delta, delta.values(), name),
              entry(fresh, fresh.values(), name));
  }
}

TEST_P(EveryOptimizer, StateSurvivesARoundTripBitForBit) {
  Delta one = make_matrices(), two = make_matrices();
  Optimizer first(options(), one), second(options(), two);
  for (int i = 0; i < 3; ++i) {
    vary_grads(one, i);
    first.step(one, i == 0 ? kEarly : kAll, 1e-2, {1, 1});
  }
  two.restore(one.snapshot());
  second.load(first.state(), "here");
  vary_grads(one, 7);
  vary_grads(two, 7);
  first.step(one, kAll, 1e-2, {1, 1});
  second.step(two, kAll, 1e-2, {1, 1});
  EXPECT_TRUE(one.values().equal(two.values()));
  // And in a process that had trained on.
  second.load(first.state(), "here");
  two.restore(one.snapshot());
  vary_grads(one, 8);
  vary_grads(two, 8);
  first.step(one, kAll, 1e-2, {1, 1});
  second.step(two, kAll, 1e-2, {1, 1});
  EXPECT_TRUE(one.values().equal(two.values()));
}

TEST_P(EveryOptimizer, WritesMaskedValuesIntoTheirWeights) {
  for (const auto type : {at::kFloat, at::kBFloat16}) {
    Delta delta = make_matrices(), plain = make_matrices();
    Parameters weights;
    for (const char* name : {"w.mask", "w.late mask"}) {
      weights.add(name, at::zeros({3, 4}, type));
    }
    delta.bind(weights);
    const at::Tensor start = weights.slot(1).frozen.clone();
    Optimizer optimizer(options(), delta), other(options(), plain);
    for (int i = 0; i < 2; ++i) {
      vary_grads(delta, i);
      vary_grads(plain, i);
      optimizer.step(delta, kEarly, 0.1, {1, 0.5}, &weights);
      other.step(plain, kEarly, 0.1, {1, 0.5});
      EXPECT_TRUE(delta.values().equal(plain.values()));
    }
    EXPECT_EQ(weights.slot(0).frozen.scalar_type(), type);
    EXPECT_TRUE(weights.slot(1).frozen.equal(start));
    const DeltaEntry& e = delta.entries()[1];
    EXPECT_TRUE(weights.slot(0).frozen.flatten().equal(
        at::zeros({12}, type)
            .index_copy(0, e.index.to(at::kLong),
                        delta.leaf(1).detach().to(type))));
  }
}

// From one mask to another and a dense entry that stays, by policy: what is
// carried goes on as it would have, what is not starts like any other.
TEST_P(EveryOptimizer, StateFollowsThePolicyToANewLayout) {
  for (const StatePolicy policy :
       {StatePolicy::kCarry, StatePolicy::kDrop, StatePolicy::kReset}) {
    Delta old = make_matrices();
    // 1 and 9 stay, 3 and 10 are new.
    Delta stays = make_matrices(), fresh = make_matrices();
    Optimizer moved(options(), old), whole(options(), stays),
        begun(options(), fresh);
    for (int i = 0; i < 5; ++i) {
      vary_grads(old, i);
      vary_grads(stays, i);
      moved.step(old, kAll, 1e-2, {1, 1});
      whole.step(stays, kAll, 1e-2, {1, 1});
    }
    Relayout to = relayout(old, make_matrices({1, 3, 9, 10}));
    moved.relayout(old, to, policy);
    fresh.restore(stays.snapshot());
    const auto number = [](Delta& d, const char* name, std::int64_t i) {
      return d.values().mutable_data_ptr<float>() +
             d.entries()[static_cast<std::size_t>(d.find(name))].offset + i;
    };
    const auto same_grads = [&](Delta& d) {
      d.zero_grads();
      for (const DeltaEntry& e : d.entries()) {
        std::fill_n(d.grads().mutable_data_ptr<float>() + e.offset, e.count,
                    0.5f);
      }
    };
    for (int i = 0; i < 2; ++i) {
      for (Delta* d : {&to.delta, &stays, &fresh}) same_grads(*d);
      moved.step(to.delta, kAll, 1e-2, {1, 1});
      whole.step(stays, kAll, 1e-2, {1, 1});
      begun.step(fresh, kAll, 1e-2, {1, 1});
    }
    Delta& like = policy == StatePolicy::kReset ? fresh : stays;
    EXPECT_THAT(entry(to.delta, to.delta.values(), "matrix"),
                testing::Pointwise(testing::FloatNear(2e-6f),
                                   entry(like, like.values(), "matrix")))
        << static_cast<int>(policy);
    if (options().optimizer == "adafactor") continue;  // clips by the entry
    const bool carried = policy == StatePolicy::kCarry;
    EXPECT_NEAR(*number(to.delta, "mask", 2),
                *number(carried ? stays : fresh, "mask", 3), 2e-6);
  }
}

// Where nothing is clipped, Adafactor's numbers do not know of each other:
// those that a new mask keeps go on, those that are new start like any other.
TEST(Optimizer, AdafactorCountsTheStepsOfEveryNumber) {
  TrainOptions options;
  options.optimizer = "adafactor";
  options.clip_threshold = 1e6;
  Delta old = make_matrices(), stays = make_matrices();
  Optimizer moved(options, old), whole(options, stays);
  for (int i = 0; i < 6; ++i) {
    vary_grads(old, i);
    vary_grads(stays, i);
    moved.step(old, kAll, 1e-2, {1, 1});
    whole.step(stays, kAll, 1e-2, {1, 1});
  }
  Relayout to = relayout(old, make_matrices({1, 3, 9, 10}));
  moved.relayout(old, to, StatePolicy::kCarry);
  EXPECT_TRUE(find(moved.state(), "age").defined());
  const at::Tensor start = to.delta.snapshot();
  Optimizer loaded(options, to.delta);
  loaded.load(moved.state(), "here");
  Delta copy = make_matrices({1, 3, 9, 10});
  copy.restore(start);
  for (int i = 0; i < 3; ++i) {
    fill_grads(to.delta, 0.5f);
    fill_grads(copy, 0.5f);
    fill_grads(stays, 0.5f);
    moved.step(to.delta, kAll, 1e-2, {1, 1});
    loaded.step(copy, kAll, 1e-2, {1, 1});
    whole.step(stays, kAll, 1e-2, {1, 1});
  }
  EXPECT_TRUE(copy.values().equal(to.delta.values()));
  const auto now = entry(to.delta, to.delta.values(), "mask");
  const auto was = entry(to.delta, start, "mask");
  EXPECT_EQ(now[0], entry(stays, stays.values(), "mask")[0]);
  EXPECT_EQ(now[2], entry(stays, stays.values(), "mask")[3]);
  // A steady gradient moves a number that began with it by lr a step.
  EXPECT_NEAR(now[1] - was[1], -0.03, 1e-5);
  EXPECT_NEAR(now[3] - was[3], -0.03, 1e-5);
  // All of one age again.
  moved.relayout(to.delta, relayout(to.delta, make_matrices({2, 3})),
                 StatePolicy::kReset);
  EXPECT_FALSE(find(moved.state(), "age").defined());
}

// From a matrix to a mask over it: rows and columns say nothing of a number.
TEST(Optimizer, AdafactorStartsAnewWhereItsStateIsOfAnotherKind) {
  TrainOptions options;
  options.optimizer = "adafactor";
  options.clip_threshold = 1e6;
  const auto make = [](bool masked) {
    DeltaBuilder builder;
    DeltaEntry e;
    e.name = e.target = "w";
    e.shape = {3, 4};
    if (masked) {
      e.kind = EntryKind::kMasked;
      e.index = at::tensor(std::vector<std::int32_t>{2, 7}, at::kInt);
    }
    builder.add(e, masked ? at::zeros({2}) : at::zeros({3, 4}));
    return builder.build();
  };
  Delta dense = make(false);
  Optimizer optimizer(options, dense);
  for (int i = 0; i < 4; ++i) {
    vary_grads(dense, i);
    optimizer.step(dense, {true}, 1e-2, {1});
  }
  Relayout to = relayout(dense, make(true));
  optimizer.relayout(dense, to, StatePolicy::kCarry);
  const at::Tensor before = to.delta.snapshot();
  fill_grads(to.delta, 0.5f);
  optimizer.step(to.delta, {true}, 1e-2, {1});
  for (const std::int64_t i : {0, 1}) {
    EXPECT_NEAR(to.delta.values()[i].sub(before[i]).item<float>(), -0.01, 1e-6);
  }
}

// Bias correction counts an entry's own steps: its first AdamW step is lr long,
// whenever it comes.
TEST(Optimizer, AnEntryThatStartsLateStartsLikeAnyOther) {
  Delta delta = make_delta();
  Optimizer optimizer(TrainOptions{}, delta);
  const std::vector<double> scale = {1, 1};
  for (int i = 0; i < 5; ++i) {
    fill_grads(delta, 1);
    optimizer.step(delta, {true, true, false, false}, 1e-2, scale);
  }
  optimizer.step(delta, {true, true, true, true}, 1e-2, scale);
  for (const float moved : entry(delta, delta.values(), "late")) {
    EXPECT_NEAR(std::fmod(moved, 1.f), 0.99, 1e-5);
  }
}

// The mask of one tensor drawn anew: three of its numbers stay, two are new.
TEST(Optimizer, NumbersOfANewMaskStartLikeAnyOther) {
  const auto masked = [](std::vector<std::int32_t> index) {
    DeltaBuilder builder;
    DeltaEntry e;
    e.name = e.target = "w";
    e.kind = EntryKind::kMasked;
    e.shape = {8};
    e.group = builder.group({.name = "mask"});
    e.index = at::tensor(index, at::kInt);
    builder.add(e, at::zeros({static_cast<std::int64_t>(index.size())}));
    return builder.build();
  };
  Delta delta = masked({0, 2, 3, 5, 7});
  Relayout to{.delta = masked({0, 1, 3, 4, 7}),
              .source = at::tensor(std::vector<std::int64_t>{0, -1, 2, -1, 4},
                                   at::kLong)};
  Optimizer optimizer(TrainOptions{}, delta);
  const auto steps = [&](Delta& d, int n) {
    for (int i = 0; i < n; ++i) {
      fill_grads(d, 0.5f);
      optimizer.step(d, {true}, 1e-2, {1});
    }
  };
  steps(delta, 50);
  optimizer.relayout(delta, to, StatePolicy::kCarry);
  // A steady gradient moves whatever is corrected for its own age by lr a step.
  steps(to.delta, 3);
  for (const float moved : entry(to.delta, to.delta.values(), "w")) {
    EXPECT_NEAR(moved, -0.03, 1e-5);
  }
  // And the ages survive a checkpoint.
  Optimizer other(TrainOptions{}, to.delta);
  other.load(optimizer.state(), "here");
  Delta copy = masked({0, 1, 3, 4, 7});
  copy.restore(to.delta.snapshot());
  fill_grads(copy, -2);
  other.step(copy, {true}, 1e-2, {1});
  fill_grads(to.delta, -2);
  optimizer.step(to.delta, {true}, 1e-2, {1});
  EXPECT_TRUE(copy.values().equal(to.delta.values()));
  // Once all begin anew, one count per entry is enough.
  optimizer.relayout(copy, to, StatePolicy::kReset);
  for (const auto& [name, tensor] : optimizer.state()) {
    EXPECT_THAT(name, testing::Not(testing::StartsWith("correction")));
  }
}

TEST(Optimizer, GroupsScaleTheRateAndDecayTowardsTheStart) {
  Delta delta = make_delta();
  TrainOptions options;
  options.optimizer = "sgd";
  options.weight_decay = 0.5;
  Optimizer optimizer(options, delta);
  fill_grads(delta, 0);
  optimizer.step(delta, {true, true, true, true}, 0.1, {1, 1});
  EXPECT_THAT(entry(delta, delta.values(), "a"),
              testing::Pointwise(testing::FloatNear(1e-6f),
                                 std::vector<float>{0.95f, 1.9f, 2.85f}));
  EXPECT_EQ(entry(delta, delta.values(), "b"), (std::vector<float>{1, 2, 3}));
  fill_grads(delta, 1);
  optimizer.step(delta, {true, true, true, true}, 0.1, {1, 1});
  EXPECT_NEAR(entry(delta, delta.values(), "b")[0], 1 - 0.5 * 0.1, 1e-6);
}

TEST(Optimizer, RefusesTheStateOfAnother) {
  Delta delta = make_matrices();
  for (const char* mine : {"adamw", "lion", "adafactor"}) {
    for (const char* theirs : {"adamw", "sgd", "lion", "adafactor"}) {
      if (std::string(mine) == theirs) continue;
      TrainOptions own, of_other;
      own.optimizer = mine;
      of_other.optimizer = theirs;
      Optimizer optimizer(own, delta), other(of_other, delta);
      try {
        optimizer.load(other.state(), "step-3");
        ADD_FAILURE() << mine << " took " << theirs;
      } catch (const UsageError& e) {
        EXPECT_THAT(e.what(), testing::HasSubstr("step-3"));
        EXPECT_THAT(e.what(), testing::HasSubstr(mine));
      }
    }
  }
}

}  // namespace
}  // namespace thinwire
