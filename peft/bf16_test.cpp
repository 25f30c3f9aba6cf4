// What trains is exact on a backbone whose matrices are bf16.
#include <gtest/gtest.h>

#include "peft/method_tools.h"
#include "peft/relayout.h"
#include "peft/testing.h"

namespace thinwire {
namespace {

using testing::Tiny;
using testing::TinyScoring;

// A masked matrix stays bf16: its numbers are the values, rounded; the values
// are exact, and begin as what the file holds.
TEST(Bf16, MaskedNumbersAreRoundedAndTheOthersAsTheyWere) {
  Tiny tiny("t5_tied", "bf16");
  const Parameters& p = tiny.backbone->parameters();
  std::vector<at::Tensor> before;
  for (int i = 0; i < p.size(); ++i) {
    before.push_back(p.slot(i).frozen.clone());
  }
  TinyScoring scoring(tiny);
  const auto method =
      make_method("fish_mask", {{"density", 0.1}, {"samples", 4}});
  Delta delta =
      testing::declare(*method, *tiny.backbone, {.scoring = &scoring});
  const at::Tensor logits = tiny.logits();
  tiny.adopt(*method, delta);
  EXPECT_TRUE(tiny.logits().detach().equal(logits));
  tiny.loss().backward();
  const auto entries = delta.entries().size();
  std::int64_t matrices = 0;
  for (std::size_t e = 0; e < entries; ++e) {
    const DeltaEntry& entry = delta.entries()[e];
    const at::Tensor& leaf = delta.leaf(static_cast<int>(e));
    ASSERT_TRUE(leaf.grad().defined()) << entry.name;
    EXPECT_EQ(leaf.grad().scalar_type(), at::kFloat);
    EXPECT_GT(leaf.grad().norm().item<double>(), 0);
    const auto slot = static_cast<std::size_t>(p.require(entry.target));
    const at::Tensor at = entry.index.to(at::kLong);
    EXPECT_TRUE(leaf.detach().equal(
        before[slot].flatten().index_select(0, at).to(at::kFloat)));
    matrices += entry.shape.size() == 2;
  }
  EXPECT_GT(matrices, 5);
  const auto expect_rounded = [&] {
    delta.write_back(tiny.backbone->parameters());
    std::vector<at::Tensor> want;
    for (const at::Tensor& t : before) want.push_back(t.clone());
    for (std::size_t e = 0; e < entries; ++e) {
      const DeltaEntry& entry = delta.entries()[e];
      at::Tensor& w = want[static_cast<std::size_t>(p.require(entry.target))];
      w.view({-1}).index_copy_(
          0, entry.index.to(at::kLong),
          delta.leaf(static_cast<int>(e)).detach().to(w.scalar_type()));
    }
    for (int i = 0; i < p.size(); ++i) {
      EXPECT_TRUE(p.slot(i).frozen.equal(want[static_cast<std::size_t>(i)]))
          << p.slot(i).name;
    }
  };
  // Less than bf16 tells apart, many times over: the values remember.
  const at::Tensor start = delta.snapshot();
  for (int i = 0; i < 300; ++i) delta.values().add_(1e-5);
  EXPECT_GT(delta.values().sub(start).min().item<float>(), 2.9e-3);
  expect_rounded();
  delta.restore(start);
  delta.values().add_(0.07);
  expect_rounded();
  EXPECT_FALSE(tiny.logits().detach().equal(logits));
}

// Between phases and in a fresh process that loads the next delta the model is
// the same, and what trains on keeps its exact value.
TEST(Bf16, AnotherMaskGoesOnWithTheExactValues) {
  Tiny tiny("t5_tied", "bf16"), fresh("t5_tied", "bf16");
  TinyScoring scoring(tiny);
  const auto make = [&](double density) {
    return make_method("fish_mask", {{"density", density}, {"samples", 4}});
  };
  const auto first = make(0.1), second = make(0.05);
  Delta one = testing::declare(*first, *tiny.backbone, {.scoring = &scoring});
  tiny.adopt(*first, one);
  one.values().add_(1e-3);
  Parameters& p = tiny.backbone->parameters();
  one.write_back(p);
  const at::Tensor logits = tiny.logits().detach();
  one.unbind(p);
  EXPECT_TRUE(tiny.logits().equal(logits));
  Relayout to = relayout(
      one, testing::declare(*second, *tiny.backbone, {.scoring = &scoring}));
  const auto* source = to.source.const_data_ptr<std::int64_t>();
  std::int64_t kept = 0;
  for (std::int64_t i = 0; i < to.delta.size(); ++i) {
    if (source[i] < 0) continue;
    ++kept;
    EXPECT_EQ(to.delta.values()[i].item<float>(),
              one.values()[source[i]].item<float>());
  }
  EXPECT_GT(kept, 10);
  to.delta.bind(p);
  EXPECT_TRUE(tiny.logits().detach().equal(logits));
  to.delta.bind(fresh.backbone->parameters());
  EXPECT_TRUE(fresh.logits().detach().equal(logits));
}

TEST(Bf16, WhatTrainedWholeKeepsItsValues) {
  Tiny tiny("bert_classify", "bf16");
  const auto method = make_method("full", {});
  Delta delta = testing::declare(*method, *tiny.backbone, {});
  tiny.adopt(*method, delta);
  tiny.loss().backward();
  const at::Tensor values = delta.values();
  values.add_(1e-5);
  const at::Tensor logits = tiny.logits().detach();
  Parameters& p = tiny.backbone->parameters();
  delta.unbind(p);
  EXPECT_TRUE(tiny.logits().equal(logits));
  for (const DeltaEntry& e : delta.entries()) {
    EXPECT_EQ(p.slot(p.require(e.target)).frozen.scalar_type(), at::kFloat);
  }
}

}  // namespace
}  // namespace thinwire
