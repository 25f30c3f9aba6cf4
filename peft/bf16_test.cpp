// What trains is exact on a backbone whose matrices are bf16.
#include <gtest/gtest.h>

#include "peft/method_tools.h"
#include "peft/relayout.h"
#include "peft/testing.h"

namespace thinwire {
namespace {

using testing::Tiny;
using testing::TinyScoring;

TEST(Bf16, MaskedNumbersAreExactAndTheOthersAsTheyWere) {
  Tiny tiny("t5_tied", true);
  const Parameters& p = tiny.backbone->parameters();
  std::vector<at::Tensor> before;
  for (int i = 0; i < p.size(); ++i) {
    before.push_back(p.slot(i).frozen.to(at::kFloat).clone());
  }
  TinyScoring scoring(tiny);
  const auto method =
      make_method("fish_mask", {{"density", 0.1}, {"samples", 4}});
  Delta delta =
      testing::declare(*method, *tiny.backbone, {.scoring = &scoring});
  tiny.adopt(*method, delta);
  tiny.loss().backward();
  std::int64_t matrices = 0;
  for (std::size_t e = 0; e < delta.entries().size(); ++e) {
    const at::Tensor& leaf = delta.leaf(static_cast<int>(e));
    ASSERT_TRUE(leaf.grad().defined()) << delta.entries()[e].name;
    EXPECT_GT(leaf.grad().norm().item<double>(), 0);
    leaf.detach().add_(1e-5);  // less than bf16 tells apart
    matrices += delta.entries()[e].shape.size() == 2;
  }
  EXPECT_GT(matrices, 5);
  delta.write_back(tiny.backbone->parameters());
  for (std::size_t e = 0; e < delta.entries().size(); ++e) {
    const DeltaEntry& entry = delta.entries()[e];
    const int slot = p.require(entry.target);
    at::Tensor& was = before[static_cast<std::size_t>(slot)];
    was.view({-1}).index_copy_(0, entry.index.to(at::kLong),
                               delta.leaf(static_cast<int>(e)).detach());
  }
  for (int i = 0; i < p.size(); ++i) {
    EXPECT_TRUE(p.slot(i).frozen.to(at::kFloat).equal(
        before[static_cast<std::size_t>(i)]))
        << p.slot(i).name;
  }
}

TEST(Bf16, WhatTrainedWholeKeepsItsValues) {
  Tiny tiny("bert_classify", true);
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
