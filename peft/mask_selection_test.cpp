#include "peft/mask_selection.h"

#include <ATen/ops/tensor.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/error.h"
#include "peft/kept_numbers.h"
#include "peft/testing.h"

namespace thinwire {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using testing::Tiny;
using testing::TinyScoring;
using Json = nlohmann::ordered_json;
using Sizes = std::vector<std::int64_t>;

at::Tensor ints(const std::vector<std::int32_t>& v) {
  return at::tensor(v, at::kInt);
}

TEST(MaskSelection, SelectsOverAllTensorsOrFromEach) {
  const std::vector<at::Tensor> scores{at::tensor({5.f, 1.f, 9.f, 9.f}),
                                       at::tensor({2.f, 8.f, 2.f, 0.f})};
  const auto select = [&](std::int64_t k, Quota quota, Extreme keep) {
    return select_numbers(scores, k, quota, keep);
  };
  auto chosen = select(3, Quota::kGlobal, Extreme::kLargest);
  EXPECT_TRUE(chosen[0].equal(ints({2, 3})));
  EXPECT_TRUE(chosen[1].equal(ints({1})));
  chosen = select(3, Quota::kGlobal, Extreme::kSmallest);
  EXPECT_TRUE(chosen[0].equal(ints({1})));
  EXPECT_TRUE(chosen[1].equal(ints({0, 3})));
  chosen = select(4, Quota::kTensor, Extreme::kLargest);
  EXPECT_TRUE(chosen[0].equal(ints({2, 3})));
  EXPECT_TRUE(chosen[1].equal(ints({0, 1})));
}

TEST(MaskSelection, SpreadsEvenly) {
  const auto even = spread_numbers(Sizes{4, 0, 8}, 3, Quota::kGlobal);
  EXPECT_TRUE(even[0].equal(ints({2})));
  EXPECT_EQ(even[1].numel(), 0);
  EXPECT_TRUE(even[2].equal(ints({2, 6})));
  const auto each = spread_numbers(Sizes{4, 8}, 6, Quota::kTensor);
  EXPECT_TRUE(each[0].equal(ints({1, 3})));
  EXPECT_TRUE(each[1].equal(ints({1, 3, 5, 7})));
}

TEST(MaskSelection, DealsByScore) {
  const std::vector<at::Tensor> index{ints({0, 2}), ints({}), ints({1, 3, 4})};
  const std::vector<at::Tensor> scores{at::tensor({3.f, 0.f, 5.f}),
                                       at::tensor({0.f}),
                                       at::tensor({0.f, 4.f, 0.f, 5.f, 1.f})};
  // 5 (0), 5 (2), 4 (2), 3 (0), 1 (2) in turn.
  auto owners = deal_numbers(index, scores, 2, Extreme::kLargest);
  EXPECT_TRUE(owners[0].equal(ints({1, 0})));
  EXPECT_EQ(owners[1].numel(), 0);
  EXPECT_TRUE(owners[2].equal(ints({0, 1, 0})));
  owners = deal_numbers(index, scores, 3, Extreme::kSmallest);
  EXPECT_TRUE(owners[0].equal(ints({1, 0})));
  EXPECT_TRUE(owners[2].equal(ints({2, 1, 0})));
  owners = deal_numbers(index, {}, 2, Extreme::kSmallest);  // by position
  EXPECT_TRUE(owners[0].equal(ints({0, 1})));
  EXPECT_TRUE(owners[2].equal(ints({0, 1, 0})));
}

TEST(MaskSelection, NumbersOfSlotsAreOneBlock) {
  Tiny tiny("bert_classify");
  const Parameters& p = tiny.backbone->parameters();
  const std::vector<int> slots{0, 2, p.require("bert.pooler.dense.weight")};
  const auto numbers = initial_numbers(*tiny.backbone, slots);
  ASSERT_EQ(numbers.size(), slots.size());
  const auto* next = numbers[0].const_data_ptr<float>();
  for (std::size_t i = 0; i < slots.size(); ++i) {
    EXPECT_EQ(numbers[i].const_data_ptr<float>(), next);
    EXPECT_TRUE(numbers[i].equal(p.slot(slots[i]).frozen.flatten()));
    next += numbers[i].numel();
  }
}

// Every mask of the backbone's own numbers.
class Masks : public ::testing::TestWithParam<const char*> {
 protected:
  Masks() : tiny("bert_classify"), scoring(tiny) {}
  Delta draw(Json config, DeclareContext context = {}) {
    config["density"] = config.value("density", 0.1);
    context.scoring = &scoring;
    return testing::declare(*make_method(GetParam(), config), *tiny.backbone,
                            context);
  }
  std::string refusal(const Json& config) {
    try {
      draw(config);
    } catch (const UsageError& e) {
      return e.what();
    }
    return "";
  }

  Tiny tiny;
  TinyScoring scoring;
};
INSTANTIATE_TEST_SUITE_P(Data, Masks,
                         ::testing::Values("random_mask", "magnitude_mask",
                                           "pafi"),
                         [](const auto& info) { return info.param; });

TEST_P(Masks, WorkersHaveDisjointSharesOfTheBest) {
  const Delta all = draw({{"density", 0.3}, {"train_head", false}});
  const Delta three =
      draw({{"density", 0.1}, {"train_head", false}}, {.workers = 3});
  // Three times the share rounded down, of the same order.
  EXPECT_LE(all.trainable() - three.trainable(), 2);
  std::vector<std::int64_t> owned(3);
  for (const DeltaEntry& e : three.entries()) {
    const at::Tensor& owner = three.constants().at(owner_constant(e.name));
    ASSERT_EQ(owner.numel(), e.count);
    const auto* o = owner.const_data_ptr<std::int32_t>();
    for (std::int64_t i = 0; i < e.count; ++i) {
      ++owned.at(static_cast<std::size_t>(o[i]));
    }
    const int same = all.find(e.name);
    ASSERT_GE(same, 0);
    EXPECT_LE(e.count, all.entries()[static_cast<std::size_t>(same)].count);
  }
  EXPECT_EQ(owned[0], owned[1]);
  EXPECT_EQ(owned[1], owned[2]);
}

TEST_P(Masks, AQuotaGivesEachTensorItsShare) {
  const Delta d = draw({{"quota", "tensor"}, {"train_head", false}});
  EXPECT_EQ(d.trainable(),
            exact_share(0.1, tiny.backbone->parameters().count()));
  for (const DeltaEntry& e : d.entries()) {
    std::int64_t n = 1;
    for (const std::int64_t s : e.shape) n *= s;
    // The budget is of all numbers, the head's among them.
    EXPECT_NEAR(static_cast<double>(e.count), 0.1 * static_cast<double>(n),
                1 + 0.02 * static_cast<double>(n))
        << e.name;
  }
}

TEST_P(Masks, SaysWhatDoesNotFit) {
  EXPECT_THAT(refusal({{"density", 1e-6}, {"train_head", false}}),
              HasSubstr("numbers is none"));
  EXPECT_THAT(refusal({{"density", 1e-6}}), HasSubstr("the head alone has"));
  EXPECT_THAT(refusal({{"density", 1.0}, {"exclude", "pooler"}}),
              HasSubstr("are neither excluded nor in the head"));
  EXPECT_THAT(refusal({{"quota", "layer"}}),
              HasSubstr("quota must be global or tensor, got 'layer'"));
}

TEST(Masks, AllZeroScoresAreNothingToChooseBy) {
  Tiny tiny("bert_classify");
  TinyScoring scoring(tiny);
  const Parameters& p = tiny.backbone->parameters();
  for (int i = 0; i < p.size(); ++i) at::Tensor(p.slot(i).frozen).zero_();
  try {
    testing::declare(*make_method("magnitude_mask", {{"density", 0.1}}),
                     *tiny.backbone, {.scoring = &scoring});
    FAIL() << "accepted";
  } catch (const UsageError& e) {
    EXPECT_STREQ(e.what(),
                 "magnitude_mask: every score is zero at step 0: there is "
                 "nothing to choose by");
  }
}

TEST(Masks, ARandomOneFollowsSeedAndStep) {
  Tiny tiny("bert_classify");
  TinyScoring scoring(tiny);
  const auto hash = [&](Json config, DeclareContext context) {
    config["density"] = 0.1;
    context.scoring = &scoring;
    return testing::declare(*make_method("random_mask", config), *tiny.backbone,
                            context)
        .hash();
  };
  const Digest one = hash(Json::object(), {.seed = 1});
  EXPECT_EQ(hash({{"seed", 1}}, {.seed = 2}), one);
  EXPECT_NE(hash({{"seed", 2}}, {.seed = 1}), one);
  EXPECT_NE(hash(Json::object(), {.seed = 2}), one);
  EXPECT_NE(hash(Json::object(), {.seed = 1, .step = 5}), one);
  EXPECT_THROW(make_method("random_mask", {{"seed", -1}}), UsageError);
}

TEST(Masks, TheBoundaryOfAnotherMethodLeavesThemAlone) {
  Tiny tiny("bert_classify");
  TinyScoring scoring(tiny);
  const auto method =
      make_method("random_mask",
                  {{"density", 0.1}, {"warmup_steps", 2}, {"remask_every", 4}});
  const auto at = [&](std::int64_t step, const Delta* current, int workers) {
    return testing::declare(*method, *tiny.backbone,
                            {.step = step,
                             .workers = workers,
                             .scoring = &scoring,
                             .current = current});
  };
  for (const int workers : {1, 2}) {
    const Delta everything = at(0, nullptr, workers);
    const Delta drawn = at(2, &everything, workers);
    EXPECT_LT(drawn.trainable(), everything.trainable());
    EXPECT_EQ(at(5, &drawn, workers).hash(), drawn.hash());
    EXPECT_NE(at(5, nullptr, workers).hash(), drawn.hash());
    const Delta anew = at(6, &drawn, workers);
    EXPECT_NE(anew.hash(), drawn.hash());
    EXPECT_EQ(anew.hash(), at(6, nullptr, workers).hash());
  }
}

// floor(0.5 n), then 0.15: half way an eighth of the difference is left.
TEST(Masks, TheirDensityFallsByDrawings) {
  Tiny tiny("bert_classify");
  TinyScoring scoring(tiny);
  ASSERT_EQ(tiny.backbone->parameters().count(), 11099);
  for (const char* id :
       {"random_mask", "magnitude_mask", "fish_mask", "snip_mask"}) {
    Json config = {{"density", 0.1},
                   {"density_start", 0.5},
                   {"remask_every", 4},
                   {"remask_until", 9}};
    for (const Field& f : find_method(id).fields) {
      if (f.name == "samples") config["samples"] = 3;
    }
    const auto method = make_method(id, config);
    EXPECT_EQ(method->next_boundary(0), 4);
    EXPECT_EQ(method->next_boundary(4), 8);
    EXPECT_EQ(method->next_boundary(8), std::nullopt);
    const auto count = [&](std::int64_t step) {
      return testing::declare(*method, *tiny.backbone,
                              {.step = step, .scoring = &scoring})
          .trainable();
    };
    EXPECT_EQ(count(0), 5549) << id;
    EXPECT_EQ(count(4), 1664) << id;
    EXPECT_EQ(count(8), 1109) << id;
  }
}

TEST(Masks, BoundariesAreTheirFields) {
  const auto boundary = [](const char* id, Json config, std::int64_t step) {
    return make_method(id, config)->next_boundary(step);
  };
  EXPECT_EQ(boundary("random_mask", {{"remask_every", 5}}, 5), 10);
  EXPECT_EQ(boundary("magnitude_mask", {{"warmup_steps", 3}}, 0), 3);
  EXPECT_EQ(boundary("pafi", Json::object(), 0), std::nullopt);
  const auto lt_sft = make_method("lt_sft", {{"full_steps", 7}});
  EXPECT_EQ(lt_sft->next_boundary(0), 7);
  EXPECT_EQ(lt_sft->next_rewind(6), 7);
  EXPECT_EQ(lt_sft->next_rewind(7), std::nullopt);
  EXPECT_EQ(lt_sft->next_boundary(7), std::nullopt);
  EXPECT_THROW(make_method("lt_sft", {{"full_steps", 0}}), UsageError);
  EXPECT_THROW(make_method("magnitude_mask", {{"keep", "all"}}), UsageError);
}

}  // namespace
}  // namespace thinwire
