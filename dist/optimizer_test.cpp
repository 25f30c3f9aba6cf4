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
#include <vector>

#include "base/error.h"
#include "dist/gradient.h"

namespace thinwire {
namespace {

// Four entries of 3 numbers in three groups: plain; decayed to initial with a
// clip group of its own; active from step 2 only; of task 7 only.
Delta make_delta() {
  DeltaBuilder builder;
  const int plain = builder.group({.name = "plain"});
  const int own = builder.group({.name = "own",
                                 .lr_factor = 0.5,
                                 .decay_to_initial = true,
                                 .clip_group = "own"});
  const auto add = [&](const char* name, int group, Activity active) {
    DeltaEntry e;
    e.name = name;
    e.shape = {3};
    e.group = group;
    e.active = std::move(active);
    builder.add(e, at::arange(1, 4, at::kFloat));
  };
  add("a", plain, {});
  add("b", own, {});
  add("late", plain, {.tasks = {}, .from_step = 2});
  add("task", plain, {.tasks = {7}});
  return builder.build();
}

void fill_grads(Delta& delta, float value) {
  delta.zero_grads();
  for (const DeltaEntry& e : delta.entries()) {
    std::fill_n(delta.grads().mutable_data_ptr<float>() + e.offset, e.count,
                value);
  }
}

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

TEST(Gradient, ActivityDecidesByStepAndTask) {
  const Delta delta = make_delta();
  EXPECT_EQ(tasks_asked(delta), std::vector<std::int32_t>{7});
  const std::int32_t seven[] = {7};
  EXPECT_EQ(active_entries(delta, 1, {}),
            (std::vector<bool>{true, true, false, false}));
  EXPECT_EQ(active_entries(delta, 2, seven),
            (std::vector<bool>{true, true, true, true}));
}

TEST(Gradient, EachClipGroupHasItsOwnNorm) {
  Delta delta = make_delta();
  fill_grads(delta, 4);
  const std::vector<bool> active = {true, true, false, false};
  // Scaled by 1/2: each of the two entries has norm sqrt(3) * 2.
  const GradientScale s = scale_gradient(delta, active, 0.5, 1.0);
  EXPECT_TRUE(s.finite);
  EXPECT_DOUBLE_EQ(s.norm, std::sqrt(24));
  EXPECT_DOUBLE_EQ(s.group[0], 0.5 / (std::sqrt(12) + 1e-6));
  EXPECT_DOUBLE_EQ(s.group[1], 0.5 / (std::sqrt(12) + 1e-6));
  const std::vector<bool> all = {true, true, true, true};
  const GradientScale t = scale_gradient(delta, all, 0.5, 1.0);
  EXPECT_DOUBLE_EQ(t.group[0], 0.5 / (6 + 1e-6));
  EXPECT_DOUBLE_EQ(t.group[1], 0.5 / (std::sqrt(12) + 1e-6));
  EXPECT_DOUBLE_EQ(scale_gradient(delta, all, 0.5, 0).group[0], 0.5);
}

TEST(Gradient, ShortGradientsAreNotStretched) {
  Delta delta = make_delta();
  fill_grads(delta, 0.01f);
  const GradientScale s =
      scale_gradient(delta, {true, true, true, true}, 1, 1.0);
  EXPECT_EQ(s.group, (std::vector<double>{1, 1}));
}

TEST(Gradient, NonFiniteNumbersAreFoundAndNamed) {
  Delta delta = make_delta();
  fill_grads(delta, 1);
  EXPECT_EQ(first_nonfinite(delta), "");
  delta.grads()[delta.entries()[2].offset + 1] =
      std::numeric_limits<float>::infinity();
  EXPECT_EQ(first_nonfinite(delta), "late");
  EXPECT_FALSE(scale_gradient(delta, {true, true, true, true}, 1, 1.0).finite);
  EXPECT_TRUE(scale_gradient(delta, {true, true, false, true}, 1, 1.0).finite);
}

TEST(Optimizer, WhatIsInactiveStaysBitwiseStill) {
  Delta delta = make_delta();
  TrainOptions options;
  options.weight_decay = 0.1;
  Optimizer optimizer(options, delta);
  const at::Tensor before = delta.snapshot();
  const std::vector<double> scale = {1, 1};
  for (int i = 0; i < 3; ++i) {
    fill_grads(delta, 1);
    optimizer.step(delta, {true, true, false, false}, 1e-2, scale);
  }
  const auto state = optimizer.state();
  for (const char* name : {"late", "task"}) {
    EXPECT_EQ(entry(delta, delta.values(), name), entry(delta, before, name));
    EXPECT_THAT(entry(delta, find(state, "m"), name), testing::Each(0.f));
    EXPECT_THAT(entry(delta, find(state, "v"), name), testing::Each(0.f));
  }
  EXPECT_NE(entry(delta, delta.values(), "a"), entry(delta, before, "a"));
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

TEST(Optimizer, StateSurvivesARoundTripBitForBit) {
  Delta one = make_delta(), two = make_delta();
  TrainOptions options;
  options.weight_decay = 0.01;
  Optimizer first(options, one), second(options, two);
  const std::vector<bool> some = {true, true, false, true};
  const auto run = [&](Optimizer& o, Delta& d, float g) {
    fill_grads(d, g);
    o.step(d, some, 1e-2, {1, 1});
  };
  run(first, one, 0.3f);
  run(first, one, -0.2f);
  two.restore(one.snapshot());
  second.load(first.state(), "here");
  run(first, one, 0.7f);
  run(second, two, 0.7f);
  EXPECT_TRUE(one.values().equal(two.values()));
}

TEST(Optimizer, RefusesTheStateOfAnother) {
  Delta delta = make_delta();
  TrainOptions sgd;
  sgd.optimizer = "sgd";
  Optimizer adamw(TrainOptions{}, delta), other(sgd, delta);
  try {
    adamw.load(other.state(), "step-3");
    FAIL() << "accepted";
  } catch (const UsageError& e) {
    EXPECT_THAT(e.what(), testing::HasSubstr("step-3"));
    EXPECT_THAT(e.what(), testing::HasSubstr("'m'"));
  }
}

}  // namespace
}  // namespace thinwire
