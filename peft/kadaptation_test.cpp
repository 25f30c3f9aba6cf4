// KAdaptation besides its formula (golden_test.cpp): which start can learn,
// dropout on the change itself, counts by formula, refusals.
#include <ATen/ops/eye.h>
#include <ATen/ops/full_like.h>
#include <gtest/gtest.h>

#include <set>

#include "base/error.h"
#include "peft/testing.h"

namespace thinwire {
namespace {

using testing::Tiny;
using Json = nlohmann::ordered_json;

// Entries by what they are.
enum class Part { kRule, kLeft, kRight, kBias, kHead };
Part part_of(const DeltaEntry& e) {
  const auto has = [&](const char* text) {
    return e.name.find(text) != std::string::npos;
  };
  if (e.head) return Part::kHead;
  if (has("kadaptation_bias")) return Part::kBias;
  if (has(".rule_")) return Part::kRule;
  return has("kadaptation_left") ? Part::kLeft : Part::kRight;
}

// Of which parts all entries have a gradient that is not zero, or none has.
class Moving {
 public:
  Moving(Tiny& tiny, Delta& delta) {
    delta.zero_grads();
    tiny.loss().backward();
    for (std::size_t i = 0; i < delta.entries().size(); ++i) {
      const at::Tensor grad = delta.leaf(static_cast<int>(i)).grad();
      const bool moves = grad.abs().max().item<float>() > 0;
      (moves ? moving_ : still_).insert(part_of(delta.entries()[i]));
    }
  }
  bool all(Part part) const {
    return moving_.contains(part) && !still_.contains(part);
  }
  bool none(Part part) const {
    return still_.contains(part) && !moving_.contains(part);
  }

 private:
  std::set<Part> moving_, still_;
};

struct Started {
  explicit Started(const Json& config)
      : tiny("bert_classify"),
        method(make_method("kadaptation", config)),
        delta(testing::declare(*method, *tiny.backbone)) {
    tiny.adopt(*method, delta);
  }
  void step() {
    delta.values().sub_(delta.grads(), 0.1);
    delta.write_back(tiny.backbone->parameters());
  }

  Tiny tiny;
  std::unique_ptr<Method> method;
  Delta delta;
};

TEST(KAdaptation, TheZeroFactorMovesAtOnceAndAllFromTheSecondStep) {
  Started run(Json{{"t", 4}});
  const Moving first(run.tiny, run.delta);
  EXPECT_TRUE(first.all(Part::kRight));
  EXPECT_TRUE(first.all(Part::kBias));
  EXPECT_TRUE(first.all(Part::kHead));
  EXPECT_TRUE(first.none(Part::kLeft));
  EXPECT_TRUE(first.none(Part::kRule));
  run.step();
  const Moving second(run.tiny, run.delta);
  for (const Part part :
       {Part::kRule, Part::kLeft, Part::kRight, Part::kBias, Part::kHead}) {
    EXPECT_TRUE(second.all(part)) << static_cast<int>(part);
  }
}

TEST(KAdaptation, FromTheReleasedStartNoFactorEverMoves) {
  Started run(Json{{"t", 4}, {"init", "released"}});
  for (int step = 0; step < 3; ++step) {
    const Moving moving(run.tiny, run.delta);
    for (const Part part : {Part::kRule, Part::kLeft, Part::kRight}) {
      EXPECT_TRUE(moving.none(part)) << static_cast<int>(part);
    }
    EXPECT_TRUE(moving.all(Part::kBias));
    EXPECT_TRUE(moving.all(Part::kHead));
    run.step();
  }
}

// What a matrix changes, [d_in, d_out], from the outputs of unit vectors.
TEST(KAdaptation, DropoutIsOfTheChangeItself) {
  constexpr std::int64_t kWidth = 24;
  const std::string name = "bert.encoder.layer.1.attention.self.value";
  Tiny tiny("bert_classify");
  const int site = tiny.backbone->find_site(SiteKind::kLinear, name);
  const at::Tensor x = at::eye(kWidth);
  const Layout layout = make_layout({kWidth}, {7});
  const auto output = [&](bool training, std::uint64_t step) {
    ForwardContext ctx;
    ctx.training = training;
    ctx.step = step;
    ctx.layout = &layout;
    return tiny.backbone->linear(site, x, ctx).detach();
  };
  const at::Tensor bare = output(false, 0);
  const auto method = make_method(
      "kadaptation",
      {{"t", 4}, {"dropout", 0.5}, {"bias", false}, {"train_head", false}});
  Delta delta = testing::declare(*method, *tiny.backbone);
  delta.values().fill_(0.25);
  tiny.adopt(*method, delta);
  const at::Tensor whole = output(false, 0).sub(bare);
  // s t / 4^4 everywhere.
  EXPECT_TRUE(golden_close("change", whole, at::full_like(whole, 2.5)));
  const at::Tensor dropped = output(true, 3).sub(bare).div(whole);
  const at::Tensor kept = dropped.round().div(2);
  EXPECT_TRUE(golden_close("dropped", dropped, kept.mul(2), 1e-4));
  EXPECT_TRUE(kept.mul(kept).equal(kept));            // 0 or 1
  EXPECT_NEAR(kept.mean().item<double>(), 0.5, 0.1);  // 576 draws: 5 sigma
  EXPECT_TRUE(output(true, 3).equal(output(true, 3)));
  EXPECT_FALSE(output(true, 4).equal(output(true, 3)));
}

std::int64_t count(const Backbone& backbone, Json config) {
  config["train_head"] = false;
  return testing::declare(*make_method("kadaptation", config), backbone)
      .trainable();
}

TEST(KAdaptation, CountsAreTheFormula) {
  const auto bert = testing::count_bert(12, 768, 30522, 2);
  const std::int64_t d = 768, t = 32;
  EXPECT_EQ(count(*bert, {{"bias", false}}), 12 * 4 * d + 2 * 2 * t * t);
  // Four kinds, four biases a layer.
  EXPECT_EQ(count(*bert, {{"t", 16},
                          {"target_modules",
                           {"query", "intermediate.dense", "output.dense"}}}),
            12 * (2 * d + 5 * d + 5 * d + 2 * d) + 4 * 2 * 16 * 16 +
                12 * (d + 4 * d + d + d));
  // Self-attention of both stacks is one kind, cross-attention another.
  const auto t5 = testing::count_t5(12, 768, 12, 64, 3072);
  EXPECT_EQ(count(*t5, Json::object()), 3 * 12 * (4 * d + d) + 4 * 2 * t * t);
}

std::string refusal(const Json& config) {
  const auto bert = testing::count_bert(2, 192, 100, 2);
  try {
    testing::declare(*make_method("kadaptation", config), *bert);
  } catch (const UsageError& e) {
    return e.what();
  }
  return "";
}

TEST(KAdaptation, WhatCannotBeIsRefusedInALine) {
  EXPECT_EQ(refusal({{"t", 80}}),
            "kadaptation: t 80 does not divide 192, a width of "
            "bert.encoder.layer.0.attention.self.query; choose one that "
            "divides every width of its targets");
  EXPECT_EQ(refusal({{"t", 0}}), "kadaptation: t must be in [1, 65536], got 0");
  EXPECT_EQ(refusal({{"scaling", 0}}),
            "kadaptation: scaling must be a number other than 0, got 0");
  EXPECT_EQ(refusal({{"rule_init", 0}}),
            "kadaptation: rule_init must be positive, got 0; at 0 no factor "
            "would have a gradient");
  EXPECT_EQ(refusal({{"init", "zero"}}),
            "kadaptation: init must be one_sided or released, got 'zero'");
  EXPECT_EQ(refusal({{"dropout", 1}}),
            "kadaptation: dropout must be in [0, 1), got 1");
}

TEST(KAdaptation, ABiasWithoutATensorCannotBeMerged) {
  Tiny tiny("t5_tied");
  const auto method = make_method("kadaptation", {{"t", 1}});
  const Delta delta = testing::declare(*method, *tiny.backbone);
  std::vector<std::pair<int, at::Tensor>> slots;
  try {
    method->merge(*tiny.backbone, delta, slots);
    FAIL();
  } catch (const UsageError& e) {
    EXPECT_EQ(std::string(e.what()),
              "kadaptation: the bias of "
              "encoder.block.0.layer.0.SelfAttention.q cannot be merged: this "
              "t5 has no tensor for it (bias: false does without)");
  }
}

}  // namespace
}  // namespace thinwire
