#include "peft/delta.h"

#include <ATen/ops/arange.h>
#include <ATen/ops/full.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros.h>
#include <gtest/gtest.h>

#include "base/error.h"
#include "models/parameters.h"
#include "models/sites.h"
#include "ops/masked_parameter.h"

namespace thinwire {
namespace {

at::Tensor ramp(std::int64_t n, double start) {
  return at::arange(start, start + static_cast<double>(n), at::kFloat);
}

DeltaEntry dense(std::string name, std::vector<std::int64_t> shape,
                 std::string target = "") {
  DeltaEntry e;
  e.name = std::move(name);
  e.shape = std::move(shape);
  e.target = std::move(target);
  return e;
}

DeltaEntry masked(std::string name, std::vector<std::int64_t> shape,
                  std::vector<int> index, std::string target = "") {
  DeltaEntry e = dense(std::move(name), std::move(shape), std::move(target));
  e.kind = EntryKind::kMasked;
  e.index = at::tensor(index, at::kInt);
  return e;
}

// Entries of 3, 4 and 5 numbers: two of them leave gaps.
Delta three() {
  DeltaBuilder b;
  b.add(dense("a", {3}), ramp(3, 1));
  b.add(masked("b", {4, 5}, {0, 3, 7, 19}), ramp(4, 10));
  b.add(dense("c", {5, 1}), ramp(5, 20).view({5, 1}));
  return b.build();
}

TEST(Delta, LaysEntriesOutOnSixteenBytes) {
  const Delta d = three();
  ASSERT_EQ(d.entries().size(), 3u);
  EXPECT_EQ(d.entries()[0].offset, 0);
  EXPECT_EQ(d.entries()[1].offset, 4);
  EXPECT_EQ(d.entries()[2].offset, 8);
  EXPECT_EQ(d.size(), 16);
  EXPECT_EQ(d.trainable(), 12);
  EXPECT_EQ(reinterpret_cast<std::uintptr_t>(d.values().const_data_ptr()) % 16,
            0u);
  for (const int gap : {3, 13, 14, 15}) {
    EXPECT_EQ(d.values().const_data_ptr<float>()[gap], 0) << gap;
  }
  EXPECT_EQ(d.leaf("c").sizes(), at::IntArrayRef({5, 1}));
  EXPECT_EQ(d.leaf("b").sizes(), at::IntArrayRef({4, 5}));  // whole, to read
  EXPECT_EQ(d.find("nothing"), -1);
  EXPECT_THROW(d.leaf("nothing"), InternalError);
}

TEST(Delta, BackwardAddsIntoTheGradientVector) {
  Delta d = three();
  const void* const where = d.leaf(2).grad().const_data_ptr();
  for (int pass = 1; pass <= 2; ++pass) {
    d.leaf(0).mul(2).sum().add(d.leaf(2).mul(d.leaf(2)).sum()).backward();
    ASSERT_EQ(d.leaf(2).grad().const_data_ptr(), where);
    const float* g = d.grads().const_data_ptr<float>();
    for (int i = 0; i < 3; ++i) EXPECT_EQ(g[i], 2.0f * pass);
    for (int i = 3; i < 8; ++i) EXPECT_EQ(g[i], 0);
    for (int i = 0; i < 5; ++i) {
      EXPECT_EQ(g[8 + i], 2.0f * static_cast<float>(20 + i) * pass);
    }
  }
  d.zero_grads();
  EXPECT_TRUE(d.leaf(0).grad().defined());
  EXPECT_EQ(d.grads().abs().sum().item<float>(), 0);
}

TEST(Delta, WritingOneEntryDoesNotDisturbTheBackwardOfAnother) {
  Delta d = three();
  const at::Tensor loss = d.leaf(2).mul(d.leaf(2)).sum();  // saves c
  at::Tensor a = d.leaf(0).detach();
  a.fill_(99);  // counts a version of `a` alone
  EXPECT_NO_THROW(loss.backward());
  EXPECT_EQ(d.values().const_data_ptr<float>()[0], 99);

  const at::Tensor again = d.leaf(2).mul(d.leaf(2)).sum();
  at::Tensor c = d.leaf(2).detach();
  c.fill_(1);  // what backward saved did change: it must say so
  EXPECT_ANY_THROW(again.backward());
}

TEST(Delta, MovesWithItsLeaves) {
  Delta d = three();
  const at::Tensor leaf = d.leaf("c");
  Delta moved = std::move(d);
  moved.values().fill_(7);
  EXPECT_EQ(leaf.detach().sum().item<float>(), 35);
  leaf.sum().backward();
  EXPECT_EQ(moved.grads().sum().item<float>(), 5);
}

TEST(Delta, SnapshotRestoreSwap) {
  Delta d = three();
  const at::Tensor before = d.snapshot();
  at::Tensor other = at::full({d.size()}, 3.0f);
  d.swap(other);
  EXPECT_TRUE(other.equal(before));
  EXPECT_EQ(d.leaf("a").detach().sum().item<float>(), 9);
  d.restore(before);
  EXPECT_TRUE(d.values().equal(before));
  EXPECT_THROW(d.restore(at::zeros({3})), InternalError);
}

TEST(Delta, HashSeesEverythingButValues) {
  const auto build = [](const auto& change) {
    DeltaBuilder b;
    DeltaGroup group{.name = "default"};
    DeltaEntry a = dense("a", {3});
    DeltaEntry m = masked("m", {4, 5}, {0, 3});
    at::Tensor constant = ramp(2, 0);
    at::Tensor values = ramp(3, 0);
    change(group, a, m, constant, values);
    b.group(group);
    b.add(a, values);
    b.add(m, ramp(2, 5));
    b.constant("k", constant);
    return b.build().hash();
  };
  using G = DeltaGroup&;
  using E = DeltaEntry&;
  using T = at::Tensor&;
  const Digest base = build([](G, E, E, T, T) {});
  EXPECT_EQ(base, build([](G, E, E, T, T v) { v.fill_(8); }));
  const Digest others[] = {
      build([](G g, E, E, T, T) { g.weight_decay_factor = 0; }),
      build([](G, E a, E, T, T) { a.name = "other"; }),
      build([](G, E a, E, T, T) { a.target = "w"; }),
      build([](G, E a, E, T, T) { a.active.until_step = 10; }),
      build([](G, E a, E, T, T) { a.active.tasks = {1}; }),
      build([](G, E a, E, T, T) { a.meaning = Meaning::kDifference; }),
      build([](G, E a, E, T, T) { a.head = true; }),
      build([](G, E, E m, T, T) {
        m.index = at::tensor({0, 4}, at::kInt);
      }),
      build([](G, E, E m, T, T) {
        m.shape = {5, 4};
      }),
      build([](G, E, E, T k, T) { k.fill_(8); }),
  };
  for (const Digest& other : others) EXPECT_NE(base, other);
}

TEST(DeltaBuilder, RefusesTwoMethodsOnOneTensor) {
  DeltaBuilder b;
  b.method_config(R"({"method": "full"})");
  b.add(dense("w", {3}, "w"), ramp(3, 0));
  b.method_config(R"({"method": "fish_mask"})");
  try {
    b.add(masked("fish.w", {3}, {1}, "w"), ramp(1, 0));
    FAIL();
  } catch (const UsageError& e) {
    EXPECT_EQ(std::string(e.what()),
              "full (peft.0) and fish_mask (peft.1) both train 'w'; exclude it "
              "from one of them");
  }
  EXPECT_THROW(b.add(dense("w", {3}), ramp(3, 0)), UsageError);
  EXPECT_TRUE(b.trains("w"));
  EXPECT_FALSE(b.trains("v"));
}

TEST(DeltaBuilder, RefusesABadIndexOrShape) {
  DeltaBuilder b;
  EXPECT_THROW(b.add(masked("m", {2, 2}, {1, 1}), ramp(2, 0)), InternalError);
  EXPECT_THROW(b.add(masked("m", {2, 2}, {2, 1}), ramp(2, 0)), InternalError);
  EXPECT_THROW(b.add(masked("m", {2, 2}, {1, 4}), ramp(2, 0)), InternalError);
  EXPECT_THROW(b.add(masked("m", {2, 2}, {-1}), ramp(1, 0)), InternalError);
  EXPECT_THROW(b.add(masked("m", {2, 2}, {1}), ramp(2, 0)), InternalError);
  EXPECT_THROW(b.add(dense("d", {2}), ramp(3, 0)), InternalError);
}

Parameters backbone() {
  Parameters p;
  p.add("w", ramp(6, 0).view({2, 3}));
  p.add("v", ramp(4, 50));
  p.add("still", ramp(2, 90));
  return p;
}

TEST(Delta, BindsAndUnbinds) {
  Parameters p = backbone();
  DeltaBuilder b;
  b.add(masked("fish.w", {2, 3}, {1, 5}, "w"), ramp(2, 100));
  b.add(dense("v", {4}, "v"), ramp(4, 60));
  Delta d = b.build();
  d.bind(p);
  const ForwardContext ctx;
  const at::Tensor w = p.get(0, ctx);
  EXPECT_TRUE(w.detach().flatten().equal(
      at::tensor({0.f, 100.f, 2.f, 3.f, 4.f, 101.f})));
  w.mul(w.detach()).sum().add(p.get(1, ctx).sum()).backward();
  EXPECT_TRUE(d.grads().equal(
      at::tensor({100.f, 101.f, 0.f, 0.f, 1.f, 1.f, 1.f, 1.f})));
  EXPECT_FALSE(p.get(2, ctx).requires_grad());
  EXPECT_THROW(d.bind(p), UsageError);  // bound already

  d.values().fill_(-1);  // an optimizer pass
  d.write_back(p);
  EXPECT_EQ(p.slot(0).frozen.flatten()[5].item<float>(), -1);
  EXPECT_EQ(p.slot(1).frozen[0].item<float>(), 50);
  d.unbind(p);
  EXPECT_EQ(p.slot(1).frozen[0].item<float>(), -1);
  EXPECT_FALSE(p.trains(0) || p.trains(1));
}

TEST(Delta, BindRefusesAnotherBackbone) {
  Parameters p = backbone();
  const auto bind = [&](DeltaEntry e) {
    DeltaBuilder b;
    const std::vector<std::int64_t> shape = e.shape;
    b.add(std::move(e), at::zeros(shape));
    b.build().bind(p);
  };
  EXPECT_THROW(bind(dense("x", {4}, "absent")), UsageError);
  EXPECT_THROW(bind(dense("x", {5}, "v")), UsageError);
  DeltaEntry difference = dense("x", {4}, "v");
  difference.meaning = Meaning::kDifference;
  EXPECT_THROW(bind(difference), UsageError);
  EXPECT_FALSE(p.trains(1));
}

TEST(Delta, BindWritesResidues) {
  Parameters p = backbone();
  DeltaBuilder b;
  b.add(masked("fish.w", {2, 3}, {1}, "w"), ramp(1, 100));
  b.constant("residue.w", at::full({2, 3}, 7.0f));
  b.constant("residue.v.index", at::tensor({2}, at::kInt));
  b.constant("residue.v.values", at::tensor({9.0f}));
  const Delta d = b.build();
  d.bind(p);
  EXPECT_TRUE(p.slot(0).frozen.flatten().equal(
      at::tensor({7.f, 100.f, 7.f, 7.f, 7.f, 7.f})));
  EXPECT_TRUE(p.slot(1).frozen.equal(at::tensor({50.f, 51.f, 9.f, 53.f})));
}

}  // namespace
}  // namespace thinwire
