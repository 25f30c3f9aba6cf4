// What trains is exact on a backbone whose linear layers are int8.
#include <gtest/gtest.h>

#include "peft/testing.h"

namespace thinwire {
namespace {

using testing::Tiny;
using testing::TinyScoring;

// Scored over int8; what the mask chose is then bf16 and begins as the file
// has it, the other numbers as under bf16; the rest does not move.
TEST(Int8, AMaskedMatrixIsBf16AndBeginsAsTheFileHasIt) {
  Tiny tiny("t5_tied", "int8"), bf16("t5_tied", "bf16");
  Parameters& p = tiny.backbone->parameters();
  const Parameters& other = bf16.backbone->parameters();
  std::vector<at::Tensor> before;
  int narrow = 0;
  for (int i = 0; i < p.size(); ++i) {
    before.push_back(p.slot(i).frozen.clone());
    narrow += p.slot(i).scale.defined();
  }
  EXPECT_GT(narrow, 20);
  EXPECT_EQ(p.slot(p.require("shared.weight")).frozen.scalar_type(),
            at::kBFloat16);
  TinyScoring scoring(tiny);
  const auto method =
      make_method("fish_mask", {{"density", 0.002}, {"samples", 4}});
  Delta delta =
      testing::declare(*method, *tiny.backbone, {.scoring = &scoring});
  const MaskedBytes bytes = masked_bytes(p, delta);
  tiny.adopt(*method, delta);
  EXPECT_GT(bytes.more(), 0);
  EXPECT_EQ(masked_bytes(p, delta).more(), bytes.more());
  tiny.loss().backward();
  std::vector<bool> masked(before.size(), false);
  for (std::size_t e = 0; e < delta.entries().size(); ++e) {
    const DeltaEntry& entry = delta.entries()[e];
    const int slot = p.require(entry.target);
    masked[static_cast<std::size_t>(slot)] = true;
    const at::Tensor& file = other.slot(slot).frozen;
    EXPECT_TRUE(p.slot(slot).frozen.equal(file)) << entry.name;
    const at::Tensor& leaf = delta.leaf(static_cast<int>(e));
    EXPECT_TRUE(
        leaf.detach().equal(file.flatten()
                                .index_select(0, entry.index.to(at::kLong))
                                .to(at::kFloat)))
        << entry.name;
    EXPECT_GT(leaf.grad().norm().item<double>(), 0) << entry.name;
  }
  delta.values().add_(0.07);
  delta.write_back(p);
  int frozen = 0;
  for (std::size_t i = 0; i < before.size(); ++i) {
    if (masked[i]) continue;
    const auto& slot = p.slot(static_cast<int>(i));
    EXPECT_TRUE(slot.frozen.equal(before[i])) << slot.name;
    frozen += slot.scale.defined();
  }
  EXPECT_GT(frozen, 0);
  // A fresh process that loads the delta has the same model.
  const at::Tensor logits = tiny.logits().detach();
  Tiny fresh("t5_tied", "int8");
  delta.bind(fresh.backbone->parameters());
  EXPECT_TRUE(fresh.logits().detach().equal(logits));
}

// Scored over int8, times what the file holds.
TEST(Int8, MasksByGradientsAreDrawn) {
  for (const char* id : {"fish_mask", "snip_mask"}) {
    Tiny tiny("t5_tied", "int8");
    TinyScoring scoring(tiny);
    const auto method = make_method(id, {{"density", 0.1}, {"samples", 4}});
    const Delta delta =
        testing::declare(*method, *tiny.backbone, {.scoring = &scoring});
    const Parameters& p = tiny.backbone->parameters();
    int narrow = 0;
    for (const DeltaEntry& entry : delta.entries()) {
      narrow += p.slot(p.require(entry.target)).scale.defined();
    }
    EXPECT_GT(narrow, 10) << id;
  }
}

TEST(Int8, WhatTrainsWholeBeginsAsUnderBf16) {
  Tiny tiny("bert_classify", "int8"), bf16("bert_classify", "bf16");
  const auto method = make_method("full", {});
  Delta delta = testing::declare(*method, *tiny.backbone, {});
  Delta want = testing::declare(*method, *bf16.backbone, {});
  EXPECT_TRUE(delta.values().equal(want.values()));
  tiny.adopt(*method, delta);
  const at::Tensor logits = tiny.logits().detach();
  delta.unbind(tiny.backbone->parameters());
  EXPECT_TRUE(tiny.logits().equal(logits));
}

}  // namespace
}  // namespace thinwire
