#include "peft/relayout.h"

#include <ATen/ops/arange.h>
#include <ATen/ops/tensor.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>

#include "base/error.h"
#include "models/parameters.h"
#include "models/sites.h"
#include "peft/delta_file.h"

namespace thinwire {
namespace {

at::Tensor ramp(std::int64_t n, double start) {
  return at::arange(start, start + static_cast<double>(n), at::kFloat);
}

Parameters backbone() {
  Parameters p;
  p.add("w", ramp(6, 0).view({2, 3}));
  p.add("v", ramp(5, 50));
  return p;
}

// What a method would declare now: whole tensors, or some of their numbers.
void add_dense(DeltaBuilder& b, const Parameters& p,
               const std::string& target) {
  DeltaEntry e;
  e.name = e.target = target;
  const at::Tensor& frozen = p.slot(p.require(target)).frozen;
  e.shape = frozen.sizes().vec();
  b.add(e, frozen);
}

void add_masked(DeltaBuilder& b, const Parameters& p, const std::string& target,
                const std::vector<int>& index) {
  DeltaEntry e;
  e.name = "fish." + target;
  e.target = target;
  e.kind = EntryKind::kMasked;
  const at::Tensor& frozen = p.slot(p.require(target)).frozen;
  e.shape = frozen.sizes().vec();
  e.index = at::tensor(index, at::kInt);
  b.add(e, frozen.flatten().index_select(0, e.index.to(at::kLong)));
}

// The whole model as a forward pass sees it.
std::vector<float> effective(const Parameters& p) {
  std::vector<float> out;
  const ForwardContext ctx;
  for (int i = 0; i < p.size(); ++i) {
    const at::Tensor t = p.get(i, ctx).detach().contiguous();
    const auto* x = t.const_data_ptr<float>();
    out.insert(out.end(), x, x + t.numel());
  }
  return out;
}

// As the trainer does it, and in a fresh process that loads the new delta.
Relayout change(Parameters& p, const Delta& old, DeltaBuilder next) {
  const std::vector<float> before = effective(p);
  old.unbind(p);
  Relayout to = relayout(old, next.build());
  to.delta.bind(p);
  EXPECT_EQ(effective(p), before);

  Parameters fresh = backbone();
  const std::string path = std::filesystem::temp_directory_path() /
                           ("relayout_" + std::to_string(getpid()));
  save_delta(path, to.delta, Digest{});
  const DeltaFile file = load_delta(path);
  EXPECT_EQ(file.delta.hash(), to.delta.hash());
  file.delta.bind(fresh);
  EXPECT_EQ(effective(fresh), before);
  std::filesystem::remove(path);
  return to;
}

void train(Delta& d, Parameters& p, float by) {
  for (std::size_t i = 0; i < d.entries().size(); ++i) {
    at::Tensor values = d.leaf(static_cast<int>(i)).detach();
    values.add_(by);
  }
  d.write_back(p);
}

TEST(Relayout, DenseThenMaskThenAnotherMaskThenDense) {
  Parameters p = backbone();
  DeltaBuilder b;
  add_dense(b, p, "w");
  add_dense(b, p, "v");
  Delta dense = b.build();
  dense.bind(p);
  train(dense, p, 0.5f);

  dense.unbind(p);  // as change() will: methods declare on current weights
  DeltaBuilder one;
  add_masked(one, p, "w", {1, 4});
  dense.bind(p);
  Relayout masked = change(p, dense, std::move(one));
  EXPECT_TRUE(masked.delta.constants().contains("residue.w"));
  EXPECT_TRUE(masked.delta.constants().contains("residue.v"));
  EXPECT_TRUE(masked.source.equal(at::tensor(
      {std::int64_t{1}, std::int64_t{4}, std::int64_t{-1}, std::int64_t{-1}})));
  train(masked.delta, p, 0.25f);

  DeltaBuilder two;
  add_masked(two, p, "w", {0, 4});
  add_masked(two, p, "v", {2});
  Relayout remasked = change(p, masked.delta, std::move(two));
  // Number 1 of w moved under the first mask and stays where it was left.
  EXPECT_EQ(
      remasked.delta.constants().at("residue.w").flatten()[1].item<float>(),
      1.75f);
  train(remasked.delta, p, 1);

  DeltaBuilder three;
  add_dense(three, p, "w");
  Relayout back = change(p, remasked.delta, std::move(three));
  EXPECT_FALSE(back.delta.constants().contains("residue.w"));
  EXPECT_TRUE(back.delta.constants().contains("residue.v"));
}

TEST(Relayout, ResiduesOfMasksAreSparse) {
  Parameters p = backbone();
  DeltaBuilder b;
  add_masked(b, p, "w", {0, 2, 5});
  Delta first = b.build();
  first.bind(p);
  train(first, p, 10);
  DeltaBuilder two;
  add_masked(two, p, "w", {2, 3});
  Relayout second = change(p, first, std::move(two));
  EXPECT_TRUE(second.delta.constants()
                  .at("residue.w.index")
                  .equal(at::tensor({0, 5}, at::kInt)));
  EXPECT_TRUE(second.delta.constants()
                  .at("residue.w.values")
                  .equal(at::tensor({10.f, 15.f})));
  train(second.delta, p, 100);
  DeltaBuilder three;
  add_masked(three, p, "w", {5});
  Relayout third = change(p, second.delta, std::move(three));
  EXPECT_TRUE(third.delta.constants()
                  .at("residue.w.index")
                  .equal(at::tensor({0, 2, 3}, at::kInt)));
  EXPECT_TRUE(third.delta.constants()
                  .at("residue.w.values")
                  .equal(at::tensor({10.f, 112.f, 103.f})));
  DeltaBuilder four;
  add_masked(four, p, "w", {0, 1, 2, 3, 4, 5});
  EXPECT_TRUE(
      change(p, third.delta, std::move(four)).delta.constants().empty());
}

TEST(Relayout, MapsStatesByPolicy) {
  Parameters p = backbone();
  DeltaBuilder b;
  add_masked(b, p, "w", {0, 2, 5});
  add_masked(b, p, "v", {1});
  Delta old = b.build();
  old.bind(p);
  DeltaBuilder n;
  add_masked(n, p, "v", {1});
  add_masked(n, p, "w", {1, 2, 5});
  const Relayout to = change(p, old, std::move(n));
  const at::Tensor state = ramp(8, 1);  // w: 1 2 3 (gap), v: 5 (gaps)
  const auto mapped = [&](StatePolicy policy) {
    return map_state(state, old, to, policy);
  };
  EXPECT_TRUE(mapped(StatePolicy::kCarry)
                  .equal(at::tensor({5.f, 0.f, 0.f, 0.f, 0.f, 2.f, 3.f, 0.f})));
  EXPECT_TRUE(mapped(StatePolicy::kDrop)
                  .equal(at::tensor({5.f, 0.f, 0.f, 0.f, 0.f, 0.f, 0.f, 0.f})));
  EXPECT_EQ(mapped(StatePolicy::kReset).abs().sum().item<float>(), 0);
  EXPECT_EQ(mapped(StatePolicy::kRewind).abs().sum().item<float>(), 0);
  EXPECT_EQ(parse_state_policy("rewind"), StatePolicy::kRewind);
  EXPECT_THROW(parse_state_policy("keep"), UsageError);
}

TEST(Relayout, RewindsToTheFirstValues) {
  Parameters p = backbone();
  const std::vector<float> at_start = effective(p);
  DeltaBuilder b;
  add_dense(b, p, "w");
  add_dense(b, p, "v");
  Delta dense = b.build();
  dense.bind(p);
  train(dense, p, 3);
  EXPECT_NE(effective(p), at_start);
  rewind(dense, p);
  EXPECT_EQ(effective(p), at_start);
  DeltaBuilder n;
  add_masked(n, p, "w", {1, 4});
  Relayout to = rewound(n.build());
  EXPECT_TRUE(to.source.lt(0).all().item<bool>());
  EXPECT_TRUE(to.delta.constants().empty());
  to.delta.bind(p);
  EXPECT_EQ(effective(p), at_start);
  train(to.delta, p, 3);
  EXPECT_THROW(rewind(to.delta, p), UsageError);  // 1 and 4 are no longer there

  // Nor are numbers of a phase before.
  to.delta.unbind(p);
  DeltaBuilder d;
  add_dense(d, p, "v");
  Relayout last = relayout(to.delta, d.build());
  last.delta.bind(p);
  EXPECT_THROW(rewind(last.delta, p), UsageError);
}

TEST(Relayout, CarriesTensorsOfAMethodsOwn) {
  const auto own = [](const char* name, double start) {
    DeltaBuilder b;
    DeltaEntry e;
    e.name = name;
    e.shape = {2, 2};
    b.add(e, ramp(4, start).view({2, 2}));
    return b.build();
  };
  const Delta old = own("lora_A", 7);
  const Relayout to = relayout(old, own("lora_A", 0));
  EXPECT_TRUE(to.delta.values().equal(old.values()));
  EXPECT_THROW(relayout(old, own("lora_B", 0)), UsageError);
}

}  // namespace
}  // namespace thinwire
