// Masks inside the tensors of other methods: sparse_adapter, fish_tuning.
#include "peft/inner_mask.h"

#include <ATen/ops/arange.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros_like.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>

#include "base/error.h"
#include "base/random.h"
#include "peft/kept_numbers.h"
#include "peft/relayout.h"
#include "peft/testing.h"

namespace thinwire {
namespace {

using ::testing::HasSubstr;
using testing::refusal;
using testing::Tiny;
using testing::TinyScoring;
using Json = nlohmann::ordered_json;

// Of random values, so that no gradient vanishes; equal for equal names.
void fill(Delta& delta) {
  for (std::size_t i = 0; i < delta.entries().size(); ++i) {
    const DeltaEntry& e = delta.entries()[i];
    if (!e.target.empty()) continue;
    at::Tensor value = at::zeros_like(delta.leaf(static_cast<int>(i)).detach());
    fill_normal(value.mutable_data_ptr<float>(), value.numel(), 3, e.name,
                0.1f);
    delta.leaf(static_cast<int>(i)).detach().copy_(value);
  }
}

bool inside(const DeltaEntry& e) {
  return e.kind == EntryKind::kMasked && e.target.empty();
}

// The same products over memory that is aligned otherwise.
constexpr double kSame = 1e-5;

// What the method inside computes, and the gradient at the mask, are those of
// the method alone with the same numbers.
class InsideAMethod : public ::testing::TestWithParam<Json> {};

TEST_P(InsideAMethod, ItComputesWhatTheWholeNumbersWould) {
  Tiny tiny("bert_classify");
  TinyScoring scoring(tiny);
  for (const char* id : {"sparse_adapter", "fish_tuning"}) {
    Json config = {{"adapter", GetParam()}, {"density", 0.3}, {"samples", 3}};
    if (id == std::string("sparse_adapter")) {
      config["score"] = "random";
      config["quota"] = "tensor";
    }
    const auto method = make_method(id, config);
    Delta delta =
        testing::declare(*method, *tiny.backbone, {.scoring = &scoring});
    fill(delta);
    tiny.adopt(*method, delta);
    const at::Tensor logits = tiny.logits();
    tiny.loss().backward();
    tiny.loss().backward();  // as often as one likes

    Delta whole = testing::declare(*method, *tiny.backbone, {.whole = true});
    ASSERT_EQ(whole.entries().size(), delta.entries().size());
    std::int64_t kept = 0, all = 0;
    for (std::size_t i = 0; i < whole.entries().size(); ++i) {
      const int entry = static_cast<int>(i);
      const DeltaEntry& e = delta.entries()[i];
      EXPECT_EQ(e.name, whole.entries()[i].name);
      EXPECT_EQ(whole.entries()[i].kind, EntryKind::kDense);
      EXPECT_EQ(e.group, whole.entries()[i].group);
      EXPECT_EQ(inside(e), e.target.empty() && e.shape.size() > 1);
      if (!e.target.empty()) continue;
      whole.leaf(entry).detach().copy_(delta.whole(entry));
      if (!inside(e)) continue;
      kept += e.count;
      all += whole.entries()[i].count;
    }
    EXPECT_EQ(kept, exact_share(0.3, all));
    tiny.adopt(*method, whole);
    EXPECT_TRUE(golden_close("logits", tiny.logits(), logits, kSame));
    tiny.loss().backward();
    tiny.loss().backward();
    for (std::size_t i = 0; i < whole.entries().size(); ++i) {
      const at::Tensor dense = whole.leaf(static_cast<int>(i)).grad();
      const at::Tensor own = delta.leaf(static_cast<int>(i)).grad();
      const DeltaEntry& e = delta.entries()[i];
      if (e.count == 0) continue;
      EXPECT_TRUE(golden_close(
          e.name, own,
          inside(e) ? dense.reshape({-1}).index_select(0, e.index) : dense,
          kSame));
    }
  }
}

INSTANTIATE_TEST_SUITE_P(
    InnerMask, InsideAMethod,
    ::testing::Values(
        Json{{"method", "houlsby"}, {"bottleneck", 4}, {"learn_scaling", true}},
        Json{{"method", "pfeiffer"}, {"bottleneck", 4}},
        Json{{"method", "parallel_adapter"}, {"bottleneck", 4}},
        Json{{"method", "compacter"}, {"bottleneck", 4}, {"phm_dim", 2}},
        Json{{"method", "phm_adapter"}, {"bottleneck", 4}, {"phm_dim", 2}},
        Json{{"method", "lora"}, {"target_modules", "all-linear"}},
        Json{{"method", "prefix_tuning"}, {"length", 3}},
        Json{{"method", "mam"},
             {"length", 2},
             {"prefix_bottleneck", 4},
             {"bottleneck", 4}}),
    [](const auto& info) {
      return info.param.at("method").template get<std::string>();
    });

const Json kHoulsby = {{"method", "houlsby"}, {"bottleneck", 4}};

TEST(InnerMask, WholeTensorsFollowTheValuesAndRestElsewhere) {
  Tiny tiny("bert_classify");
  for (const char* id : {"sparse_adapter", "fish_tuning"}) {
    const auto method =
        make_method(id, {{"adapter", kHoulsby}, {"density", 0.3}});
    Delta delta = testing::declare(*method, *tiny.backbone);
    const Delta whole =
        testing::declare(*method, *tiny.backbone, {.whole = true});
    tiny.adopt(*method, delta);
    delta.values().add_(1);
    delta.write_back(tiny.backbone->parameters());
    for (std::size_t i = 0; i < delta.entries().size(); ++i) {
      const DeltaEntry& e = delta.entries()[i];
      if (!inside(e)) continue;
      const at::Tensor began = whole.leaf(e.name).detach();
      at::Tensor want =
          (id == std::string("fish_tuning") ? began : at::zeros_like(began))
              .clone();
      const at::Tensor at = e.index.to(at::kLong);
      want.view({-1}).index_copy_(
          0, at, began.reshape({-1}).index_select(0, at).add(1));
      EXPECT_TRUE(delta.leaf(e.name).detach().equal(want)) << e.name;
      EXPECT_TRUE(delta.whole(static_cast<int>(i)).equal(want)) << e.name;
    }
  }
}

// From warm-up to the mask to another boundary, where it stays.
TEST(InnerMask, IsDrawnOnceAfterWarmUp) {
  for (const char* id : {"sparse_adapter", "fish_tuning"}) {
    Tiny tiny("bert_classify");
    TinyScoring scoring(tiny);
    const auto method = make_method(id, {{"adapter", kHoulsby},
                                         {"density", 0.3},
                                         {"samples", 3},
                                         {"warmup_steps", 4}});
    EXPECT_EQ(method->next_boundary(0), 4);
    EXPECT_EQ(method->next_boundary(3), 4);
    EXPECT_EQ(method->next_boundary(4), std::nullopt);
    Delta dense =
        testing::declare(*method, *tiny.backbone, {.scoring = &scoring});
    EXPECT_EQ(
        dense.trainable(),
        testing::declare(*method, *tiny.backbone, {.whole = true}).trainable());
    fill(dense);
    tiny.adopt(*method, dense);
    const at::Tensor before = tiny.logits().detach();
    Parameters& p = tiny.backbone->parameters();
    const auto next = [&](const Delta& now) {
      now.unbind(p);
      Relayout to = relayout(
          now,
          testing::declare(*method, *tiny.backbone,
                           {.step = 4, .scoring = &scoring, .current = &now}));
      tiny.adopt(*method, to.delta);
      return to;
    };
    Relayout first = next(dense);
    // Numbers that are removed are missed; numbers that rest are not.
    EXPECT_EQ(bool{golden_close("logits", tiny.logits(), before, kSame)},
              id == std::string("fish_tuning"));
    const auto* source = first.source.const_data_ptr<std::int64_t>();
    for (const DeltaEntry& e : first.delta.entries()) {
      for (std::int64_t i = e.offset; i < e.offset + e.count; ++i) {
        ASSERT_GE(source[i], 0);
        EXPECT_EQ(first.delta.values()[i].item<float>(),
                  dense.values()[source[i]].item<float>());
      }
    }
    for (std::size_t i = 0; i < first.delta.entries().size(); ++i) {
      const DeltaEntry& e = first.delta.entries()[i];
      first.delta.values().narrow(0, e.offset, e.count).add_(0.1);
    }
    first.delta.write_back(p);
    const at::Tensor moved = tiny.logits().detach();
    const Relayout second = next(first.delta);
    EXPECT_EQ(second.delta.hash(), first.delta.hash());
    EXPECT_TRUE(second.delta.values().equal(first.delta.values()));
    EXPECT_TRUE(tiny.logits().detach().equal(moved));
  }
}

Delta own(const DeltaBuilder::Masks& masks, DeltaBuilder::Rest rest) {
  DeltaBuilder builder;
  builder.masked(masks, rest, [&] {
    DeltaEntry e;
    e.name = "own";
    e.shape = {2, 3};
    builder.add(std::move(e), at::arange(6, at::kFloat).view({2, 3}));
  });
  return builder.build();
}

// Masks of any kind one after the other: what is left out rests where it is, or
// at 0; what is taken in begins where it rested.
TEST(InnerMask, RelayoutTakesInAndLeavesOut) {
  using Rest = DeltaBuilder::Rest;
  const auto mask = [](std::vector<int> index) {
    return DeltaBuilder::Masks{{"own", at::tensor(index, at::kInt)}};
  };
  const auto whole = [](const Delta& d) { return d.whole(0).view({-1}); };
  for (const Rest rest : {Rest::kAsItBegins, Rest::kZero}) {
    Delta dense = own({}, rest);
    dense.values().narrow(0, 0, 6).mul_(10);
    Delta some = relayout(dense, own(mask({1, 4}), rest)).delta;
    const bool kept = rest == Rest::kAsItBegins;
    EXPECT_TRUE(whole(some).equal(
        kept ? at::tensor({0, 10, 20, 30, 40, 50}).to(at::kFloat)
             : at::tensor({0, 10, 0, 0, 40, 0}).to(at::kFloat)));
    some.values().narrow(0, 0, 2).add_(1);
    const Delta others = relayout(some, own(mask({4, 5}), rest)).delta;
    EXPECT_EQ(others.values()[0].item<float>(), 41);
    EXPECT_EQ(others.values()[1].item<float>(), kept ? 50 : 0);
    EXPECT_EQ(whole(others)[1].item<float>(), kept ? 11 : 0);
    const Delta again = relayout(others, own({}, rest)).delta;
    EXPECT_TRUE(again.values().narrow(0, 0, 6).equal(whole(others)));
  }
}

TEST(InnerMask, AScoreOfZerosSaysSo) {
  Tiny tiny("bert_classify");
  TinyScoring scoring(tiny);
  const auto method = make_method(
      "sparse_adapter",
      {{"adapter", {{"method", "lora"}}}, {"score", "snip"}, {"samples", 3}});
  const std::string what = refusal([&] {
    testing::declare(*method, *tiny.backbone, {.scoring = &scoring});
  });
  EXPECT_THAT(what, HasSubstr("score snip is 0 for every number of lora"));
  EXPECT_THAT(what, HasSubstr("warmup_steps"));
}

// LoRA's B starts at 0: by magnitude it goes first.
TEST(InnerMask, AMatrixOfWhichNothingIsLeftIsNamed) {
  Tiny tiny("bert_classify");
  const Json config = {{"adapter", {{"method", "lora"}}},
                       {"score", "magnitude"}};
  EXPECT_THAT(
      refusal([&] {
        testing::declare(*make_method("sparse_adapter", config),
                         *tiny.backbone);
      }),
      ::testing::AllOf(HasSubstr("removes all of"), HasSubstr("lora_B")));
}

TEST(InnerMask, RefusesWhatMakesNoSense) {
  const auto made = [](const char* id, Json more) {
    Json config = {{"adapter", kHoulsby}};
    config.update(more);
    return refusal([&] { make_method(id, config); });
  };
  EXPECT_EQ(made("sparse_adapter", {{"density", 0.2}, {"sparsity", 0.8}}), "");
  EXPECT_THAT(made("sparse_adapter", {{"density", 0.8}, {"sparsity", 0.8}}),
              HasSubstr("together they must be 1"));
  EXPECT_THAT(made("sparse_adapter", {{"sparsity", 1}}), HasSubstr("[0, 1)"));
  EXPECT_THAT(made("sparse_adapter", {{"density", 0}}), HasSubstr("(0, 1]"));
  EXPECT_THAT(made("fish_tuning", {{"density", 1.5}}), HasSubstr("(0, 1]"));
  EXPECT_THAT(made("sparse_adapter", {{"score", "snap"}}),
              HasSubstr("choose one of: snip"));
  EXPECT_THAT(made("sparse_adapter", {{"quota", "layer"}}),
              HasSubstr("global or tensor"));
  EXPECT_THAT(made("sparse_adapter", {{"warmup_steps", -1}}),
              HasSubstr("at least 0"));
  EXPECT_THAT(made("fish_tuning", {{"samples", 0}}), HasSubstr("at least 1"));
  EXPECT_THAT(made("fish_tuning", {{"fisher", "false"}}),
              HasSubstr("empirical or true"));
  // The method inside, with its own checks.
  EXPECT_THAT(made("fish_tuning", {{"adapter", {{"method", "lroa"}}}}),
              HasSubstr("lora"));
  EXPECT_THAT(
      made("fish_tuning", {{"adapter", {{"method", "lora"}, {"r", 0}}}}),
      HasSubstr("lora: r must be"));
  EXPECT_THAT(
      made("fish_tuning", {{"adapter", {{"method", "lora"}, {"q", 1}}}}),
      HasSubstr("'q' is unknown"));
  EXPECT_THAT(
      made("fish_tuning", {{"adapter", {{"method", "sparse_adapter"}}}}),
      HasSubstr("masks a method already"));
  EXPECT_THAT(made("fish_tuning", {{"adapter", "lora"}}),
              HasSubstr("{method: lora"));
  Tiny tiny("bert_classify");
  const auto bitfit =
      make_method("fish_tuning", {{"adapter", {{"method", "bitfit"}}}});
  EXPECT_THAT(refusal([&] { testing::declare(*bitfit, *tiny.backbone); }),
              HasSubstr("no matrix of its own"));
  const auto few =
      make_method("sparse_adapter", {{"adapter", kHoulsby}, {"density", 1e-6}});
  EXPECT_THAT(refusal([&] { testing::declare(*few, *tiny.backbone); }),
              HasSubstr("is none"));
}

// Quotas as the sizes for all scores but er's own, exact in sum either way.
TEST(InnerMask, Quotas) {
  Tiny tiny("bert_classify");
  TinyScoring scoring(tiny);
  for (const char* score : {"random", "magnitude", "er", "snip", "grasp"}) {
    for (const char* quota : {"global", "tensor"}) {
      const auto method = make_method("sparse_adapter", {{"adapter", kHoulsby},
                                                         {"score", score},
                                                         {"quota", quota},
                                                         {"sparsity", 0.75},
                                                         {"samples", 3}});
      const Delta d =
          testing::declare(*method, *tiny.backbone, {.scoring = &scoring});
      std::vector<std::int64_t> counts;
      std::int64_t kept = 0, all = 0;
      for (const DeltaEntry& e : d.entries()) {
        if (!inside(e)) continue;
        counts.push_back(e.count);
        kept += e.count;
        all += e.shape[0] * e.shape[1];
      }
      EXPECT_EQ(kept, exact_share(0.25, all)) << score;
      const auto [low, high] = std::ranges::minmax(counts);
      const bool quotas =
          quota == std::string("tensor") || score == std::string("er");
      EXPECT_EQ(high - low <= 1, quotas) << score << " " << quota;
      // Of the seed, where it is random or the values are.
      const Delta again =
          testing::declare(*method, *tiny.backbone, {.scoring = &scoring});
      const Delta other = testing::declare(*method, *tiny.backbone,
                                           {.seed = 2, .scoring = &scoring});
      EXPECT_EQ(again.hash(), d.hash());
      EXPECT_NE(other.hash(), d.hash());
    }
  }
}

}  // namespace
}  // namespace thinwire
