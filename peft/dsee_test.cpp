// DSEE: where S2 stands, what pruning removes, and what is left when it is
// merged. Against the formulas: golden_test.cpp.
#include <ATen/ops/arange.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>

#include "base/error.h"
#include "base/random.h"
#include "models/export.h"
#include "peft/delta_file.h"
#include "peft/kept_numbers.h"
#include "peft/method_tools.h"
#include "peft/narrow_model.h"
#include "peft/pruned_weights.h"
#include "peft/relayout.h"
#include "peft/robust_split.h"
#include "peft/testing.h"

namespace thinwire {
namespace {

using ::testing::HasSubstr;
using testing::refusal;
using testing::Tiny;
using testing::TinyScoring;
using Json = nlohmann::ordered_json;

// A method on a tiny model, from one phase to the next.
struct Phases {
  Phases(const std::string& model, const Json& config,
         std::string_view dtype = "fp32")
      : tiny(model, dtype), scoring(tiny), method(make_method("dsee", config)) {
    delta = testing::declare(*method, *tiny.backbone, {.scoring = &scoring});
    tiny.adopt(*method, delta);
  }

  // Away from 0, so that every change is one.
  void train() {
    at::Tensor noise = at::zeros({delta.size()}, at::kFloat);
    fill_normal(noise.mutable_data_ptr<float>(), noise.numel(), 5, "noise",
                0.1f);
    for (const DeltaEntry& e : delta.entries()) {
      delta.values()
          .narrow(0, e.offset, e.count)
          .add_(noise.narrow(0, e.offset, e.count));
    }
    delta.write_back(tiny.backbone->parameters());
  }
  void boundary(std::int64_t step) {
    delta.unbind(tiny.backbone->parameters());
    Relayout to = relayout(
        delta, testing::declare(
                   *method, *tiny.backbone,
                   {.step = step, .scoring = &scoring, .current = &delta}));
    delta = std::move(to.delta);
    tiny.adopt(*method, delta);
  }
  MergedSlots merged() const {
    MergedSlots slots;
    method->merge(*tiny.backbone, delta, slots);
    return slots;
  }
  const at::Tensor& frozen(const std::string& name) const {
    const Parameters& p = tiny.backbone->parameters();
    return p.slot(p.require(name)).frozen;
  }

  Tiny tiny;
  TinyScoring scoring;
  std::unique_ptr<Method> method;
  Delta delta;
};

const Json kSmall = {{"r", 3}, {"sparse", 6}, {"support", "magnitude"}};

Json with(Json more) {
  Json config = kSmall;
  config.update(more);
  return config;
}

const char* const kQuery = "bert.encoder.layer.0.attention.self.query";

// tests/golden/make_dsee.py
TEST(RobustSplit, AgreesWithNumPyOverRounds) {
  const SafetensorsFile golden(golden_path("dsee_split/golden.safetensors"));
  const at::Tensor w = golden.tensor("w");
  EXPECT_TRUE(golden_close("tall", beside_low_rank(w, 6, 3, 1),
                           golden.tensor("tall"), 1e-4));
  EXPECT_TRUE(golden_close("wide", beside_low_rank(w.t(), 6, 3, 1),
                           golden.tensor("wide"), 1e-4));
}

// Numbers that are added to a matrix of rank 1, of which larger ones are many.
// In one round: further ones give the low rank part after part of it.
TEST(RobustSplit, FindsWhatWasPlantedOnLowRank) {
  const at::Tensor at = at::tensor({3, 500, 501, 1200, 1777, 2399}, at::kInt);
  for (const auto& [rows, columns] : {std::pair{40, 60}, {60, 40}}) {
    const auto steps = [](std::int64_t n, std::int64_t period) {
      return at::arange(n, at::kFloat).remainder(period).add(1);
    };
    at::Tensor w = steps(rows, 3).outer(steps(columns, 4)).div(2);
    w.view({-1}).index_add_(
        0, at.to(at::kLong),
        at::tensor({.8, -.9, 1., -1.1, 1.2, 1.3}).to(at::kFloat));
    const auto largest = [&](const at::Tensor& scores) {
      const std::vector one{scores.to(at::kFloat)};
      return keep_largest(one, at.numel()).front();
    };
    EXPECT_TRUE(largest(beside_low_rank(w, at.numel(), 1, 6)).equal(at));
    EXPECT_FALSE(largest(w.abs()).equal(at));
  }
}

TEST(Dsee, PlacesAreOfTheSupportAndDrawnOnce) {
  std::vector<at::Tensor> all;
  for (const char* support : {"split", "random", "magnitude"}) {
    Phases run("bert_classify", with({{"support", support}}));
    const std::string name = std::string(kQuery) + ".dsee_S.index";
    const at::Tensor at = run.delta.constants().at(name);
    EXPECT_EQ(at.numel(), 6);
    EXPECT_TRUE(at.slice(0, 1).gt(at.slice(0, 0, 5)).all().item<bool>());
    for (const at::Tensor& other : all) EXPECT_FALSE(at.equal(other));
    all.push_back(at);
    const Delta seeded = testing::declare(*run.method, *run.tiny.backbone,
                                          {.seed = 2, .scoring = &run.scoring});
    if (support != std::string("split")) {
      EXPECT_EQ(seeded.constants().at(name).equal(at),
                support == std::string("magnitude"));
    }
    // Whatever the weights are by then.
    run.frozen(std::string(kQuery) + ".weight").neg_().add_(1);
    run.boundary(7);
    EXPECT_TRUE(run.delta.constants().at(name).equal(at));
  }
}

const Json kPruned =
    with({{"prune_after", 4}, {"sparsity", 0.3}, {"other_sparsity", 0.2}});

std::int64_t removed_of(const Delta& delta, const std::string& part) {
  std::int64_t n = 0;
  for (const auto& [target, bits] : pruned_bits(delta.constants())) {
    if (target.find(part) != std::string::npos) n += count_bits(bits);
  }
  return n;
}

// By each group's own share; once, whatever other boundaries come.
TEST(Dsee, PrunesOnceAtItsBoundary) {
  Phases run("bert_classify", kPruned);
  EXPECT_EQ(run.method->next_boundary(0), 4);
  EXPECT_EQ(run.method->next_boundary(3), 4);
  EXPECT_EQ(run.method->next_boundary(4), std::nullopt);
  EXPECT_TRUE(pruned_bits(run.delta.constants()).empty());
  run.train();
  run.boundary(2);  // another method's
  EXPECT_TRUE(pruned_bits(run.delta.constants()).empty());
  const at::Tensor values = run.delta.snapshot();
  run.boundary(4);
  EXPECT_TRUE(run.delta.values().equal(values));
  // 2 layers of d 24 and 40 channels.
  EXPECT_EQ(removed_of(run.delta, "query") + removed_of(run.delta, "value"),
            exact_share(0.3, 4 * 24 * 24));
  EXPECT_EQ(removed_of(run.delta, ""),
            exact_share(0.3, 4 * 24 * 24) +
                exact_share(0.2, 4 * 24 * 24 + 4 * 24 * 40));
  EXPECT_EQ(removed_of(run.delta, "pooler"), 0);
  for (const auto& [target, bits] : pruned_bits(run.delta.constants())) {
    EXPECT_EQ(run.frozen(target).eq(0).sum().item<std::int64_t>(),
              count_bits(bits))
        << target;
  }
  const Digest before = run.delta.hash();
  run.train();
  run.boundary(9);
  EXPECT_EQ(run.delta.hash(), before);
}

// A process that has the file's weights and the delta has the pruned model.
TEST(Dsee, APrunedModelIsItsBackboneAndTheDelta) {
  for (const char* dtype : {"fp32", "bf16", "int8"}) {
    Phases run("t5_gated", kPruned, dtype);
    run.train();
    run.boundary(4);
    const MaskedBytes bytes =
        masked_bytes(run.tiny.backbone->parameters(), run.delta);
    EXPECT_GT(bytes.before, 0);
    const at::Tensor logits = run.tiny.logits().detach();
    const std::string path = std::filesystem::temp_directory_path() /
                             ("dsee_" + std::to_string(getpid()));
    save_delta(path, run.delta, Digest{});
    const DeltaFile file = load_delta(path);
    std::filesystem::remove(path);
    EXPECT_EQ(file.delta.hash(), run.delta.hash());
    Tiny fresh("t5_gated", dtype);
    fresh.adopt(*run.method, file.delta);
    EXPECT_TRUE(fresh.logits().detach().equal(logits)) << dtype;
  }
}

// Merged, W . S1 + s (U V + S2) is dense where there is a change, unless the
// change is masked too; it is sparse elsewhere.
TEST(Dsee, MergedWeightsAreSparseWhereNothingChangesOrTheChangeIsMasked) {
  for (const bool mask_update : {false, true}) {
    Json config = kPruned;
    config["mask_update"] = mask_update;
    Phases run("bert_classify", config);
    run.train();
    run.boundary(4);
    const at::Tensor logits = run.tiny.logits().detach();
    Tiny fresh("bert_classify");
    Parameters& p = fresh.backbone->parameters();
    for (int i = 0; i < p.size(); ++i) {
      at::Tensor to = p.slot(i).frozen;
      to.copy_(run.frozen(p.slot(i).name));
    }
    for (const auto& [slot, weight] : run.merged()) {
      at::Tensor to = p.slot(slot).frozen;
      to.copy_(weight);
    }
    EXPECT_TRUE(golden_close("logits", fresh.logits(), logits, 5e-6));
    for (const auto& [target, bits] : pruned_bits(run.delta.constants())) {
      const bool changed = target.find("query") != std::string::npos ||
                           target.find("value") != std::string::npos;
      const auto zeros =
          p.slot(p.require(target)).frozen.eq(0).sum().item<std::int64_t>();
      EXPECT_EQ(zeros, changed && !mask_update ? 0 : count_bits(bits))
          << target;
    }
  }
}

Json units(std::int64_t heads, double channels) {
  return with({{"prune_after", 4},
               {"prune_heads", heads},
               {"prune_channels", channels}});
}

// What belongs to a removed head has no gradient any more, and a model without
// it, where HF's config has a number for that, gives the same.
TEST(Dsee, WhatIsRemovedWholeIsLeftOutWhenMerged) {
  const struct {
    const char* model;
    std::vector<std::pair<const char*, std::int64_t>> widths;
    int said;
  } cases[] = {
      {"t5_tied", {{"d_ff", 27}, {"num_heads", 2}, {"d_kv", 7}}, 2},
      {"t5_gated", {{"num_heads", 2}}, 2},
      {"bert_classify", {{"intermediate_size", 30}}, 2},
      {"roberta_classify", {{"intermediate_size", 30}}, 2},
      {"gpt2_lm", {{"n_inner", 30}}, 2},
      {"bart_text", {{"encoder_ffn_dim", 15}, {"decoder_ffn_dim", 21}}, 3},
  };
  for (const auto& c : cases) {
    SCOPED_TRACE(c.model);
    Phases run(c.model, units(1, 0.25));
    run.train();
    const std::int64_t whole = run.tiny.backbone->parameters().count();
    run.boundary(4);
    run.tiny.loss().backward();
    std::int64_t still = 0;
    for (std::size_t i = 0; i < run.delta.entries().size(); ++i) {
      const DeltaEntry& e = run.delta.entries()[i];
      if (!e.name.ends_with(".dsee_U")) continue;
      const at::Tensor norms =
          run.delta.leaf(static_cast<int>(i)).grad().abs().sum(1);
      still += norms.eq(0).sum().item<std::int64_t>();
    }
    EXPECT_GT(still, 0);
    const at::Tensor logits = run.tiny.logits().detach();
    const NarrowModel narrow = narrow_model(*run.tiny.backbone, run.merged());
    ASSERT_NE(narrow.backbone, nullptr);
    EXPECT_EQ(std::ssize(narrow.said), c.said);
    const ModelConfig& config = narrow.backbone->config();
    for (const auto& [key, width] : c.widths) {
      EXPECT_EQ(config.raw.at(key).get<std::int64_t>(), width) << key;
    }
    // Through an HF folder.
    const std::string folder = std::filesystem::temp_directory_path() /
                               ("narrow_" + std::to_string(getpid()));
    Tiny small(c.model);
    if (small.classifier >= 0) {
      small.classifier = add_classifier(*narrow.backbone, *narrow.source, 3);
    }
    EXPECT_LT(narrow.backbone->parameters().count(), whole);
    save_hf_folder(*narrow.backbone, folder);
    small.backbone = load_backbone(folder);
    if (small.classifier >= 0) {
      const auto source = open_weights(folder, small.backbone->config());
      small.classifier = add_classifier(*small.backbone, *source, 3);
    }
    std::filesystem::remove_all(folder);
    EXPECT_TRUE(golden_close("logits", small.logits(), logits, 5e-6));
  }
}

TEST(Dsee, AModelOfWhichEverythingIsReadStaysAsWide) {
  Phases run("t5_tied", kSmall);
  run.train();
  EXPECT_EQ(narrow_model(*run.tiny.backbone, run.merged()).backbone, nullptr);
}

// Of a stack's self-attentions the same heads go, since T5's layers share what
// is added to a head's scores.
TEST(Dsee, T5LosesTheSameHeadsInAllLayersOfAStack) {
  Phases run("t5_tied", units(1, 0));
  run.train();
  run.boundary(4);
  for (const char* stack : {"encoder", "decoder"}) {
    at::Tensor first;
    for (const auto& [target, bits] : pruned_bits(run.delta.constants())) {
      if (!target.starts_with(stack) ||
          !target.ends_with(".SelfAttention.o.weight")) {
        continue;
      }
      if (!first.defined()) first = bits;
      EXPECT_TRUE(bits.equal(first)) << target;
    }
    EXPECT_TRUE(first.defined());
  }
}

TEST(Dsee, WhatIsPrunedDoesNotTrainOrRewind) {
  Phases run("bert_classify", kPruned);
  run.train();
  run.boundary(4);
  EXPECT_THAT(
      refusal([&] { rewind(run.delta, run.tiny.backbone->parameters()); }),
      HasSubstr("were removed, which nothing brings back"));
  Tiny tiny("bert_classify");
  TinyScoring scoring(tiny);
  const auto full = make_method("full", Json::object());
  const auto frozen = with({{"train_head", false}});
  const auto declare = [&](const Json& config, bool first) {
    DeltaBuilder builder;
    const auto dsee = make_method("dsee", config);
    const DeclareContext context{
        .step = 4, .scoring = &scoring, .current = &run.delta};
    if (!first) full->declare(builder, *tiny.backbone, context);
    dsee->declare(builder, *tiny.backbone, context);
    if (first) full->declare(builder, *tiny.backbone, context);
    builder.build().bind(tiny.backbone->parameters());
  };
  Json pruned = kPruned;
  pruned["train_head"] = false;
  EXPECT_EQ(refusal([&] { declare(frozen, false); }), "");
  tiny.backbone->parameters().freeze_all();
  EXPECT_THAT(refusal([&] { declare(pruned, false); }),
              HasSubstr("trains, so nothing of it can be pruned"));
  EXPECT_THAT(refusal([&] { declare(pruned, true); }),
              HasSubstr("of which numbers were removed"));
}

TEST(Dsee, RefusesWhatMakesNoSense) {
  const auto made = [](Json config) {
    return refusal([&] { make_method("dsee", config); });
  };
  EXPECT_EQ(made(Json::object()), "");
  EXPECT_EQ(made({{"r", 0}}), "dsee: r must be at least 1, got 0");
  EXPECT_EQ(made({{"sparse", -1}}), "dsee: sparse must be at least 0, got -1");
  EXPECT_THAT(made({{"alpha", 0}}), HasSubstr("alpha must be positive"));
  EXPECT_THAT(made({{"support", "omp"}}),
              HasSubstr("split, random or magnitude, got 'omp'"));
  EXPECT_THAT(made({{"score", "updates"}}),
              HasSubstr("choose one of: update,"));
  for (const char* field : {"sparsity", "other_sparsity", "prune_channels"}) {
    EXPECT_THAT(made({{field, 1}}), HasSubstr("in [0, 1), got 1")) << field;
    EXPECT_THAT(made({{field, -0.1}}), HasSubstr("[0, 1)")) << field;
  }
  EXPECT_THAT(made({{"prune_heads", -1}}), HasSubstr("at least 0"));
  EXPECT_THAT(made({{"prune_after", -1}}), HasSubstr("at least 0"));
  EXPECT_THAT(made({{"prune_heads", 1}, {"sparsity", 0.2}}),
              HasSubstr("set one pair to 0"));
  EXPECT_THAT(
      made({{"prune_after", 3}, {"sparsity", 0}, {"other_sparsity", 0}}),
      HasSubstr("prune_after 3 removes nothing"));
  EXPECT_THAT(made({{"mask_update", true}, {"dropout", 0.1}}),
              HasSubstr("set dropout to 0, got 0.1"));
}

// Before anything trains.
TEST(Dsee, RefusesWhatCannotBeMet) {
  const auto declared = [](const char* model, const Json& config) {
    Tiny tiny(model);
    TinyScoring scoring(tiny);
    return refusal([&] {
      testing::declare(*make_method("dsee", config), *tiny.backbone,
                       {.scoring = &scoring});
    });
  };
  const char* bert = "bert_classify";
  EXPECT_THAT(declared(bert, with({{"sparse", 577}})),
              HasSubstr("more than the 576 numbers of " + std::string(kQuery)));
  EXPECT_THAT(declared(bert, units(3, 0)),
              HasSubstr("prune_heads 3 would leave none of the 3 heads"));
  EXPECT_THAT(declared(bert, units(0, 0.01)),
              HasSubstr("prune_channels 0.01 of the 40"));
  const auto targets = [&](Json config, Json list) {
    config["target_modules"] = std::move(list);
    return declared(bert, config);
  };
  EXPECT_THAT(targets(units(1, 0), {"intermediate.dense"}),
              HasSubstr("add them to target_modules"));
  EXPECT_THAT(targets(units(1, 0), {"query", "attention.output.dense"}),
              HasSubstr("take it out of target_modules"));
  EXPECT_THAT(targets(kPruned, "all-linear"),
              HasSubstr("other_sparsity 0.2 is of no matrix"));
  EXPECT_THAT(declared(bert, with({{"prune_after", 3},
                                   {"sparsity", 1e-6},
                                   {"other_sparsity", 0}})),
              HasSubstr("sparsity 1e-06 of 2304 numbers is none"));
  // Nothing has trained yet.
  EXPECT_THAT(declared(bert, with({{"prune_after", 0}})),
              HasSubstr("score update is 0 for every number"));
  EXPECT_EQ(declared(bert, with({{"prune_after", 0}, {"score", "weight"}})),
            "");
  Json now = units(1, 0);
  now["prune_after"] = 0;
  EXPECT_THAT(declared("t5_tied", now),
              HasSubstr("those that have not trained are; prune later"));
}

// One matrix of the group has changed by far the least.
TEST(Dsee, AMatrixOfWhichNothingIsLeftIsNamed) {
  Phases run("bert_classify", kPruned);
  run.train();
  for (const char part : {'U', 'S'}) {
    run.delta.leaf(fmt::format("{}.dsee_{}", kQuery, part)).detach().mul_(1e-6);
  }
  EXPECT_THAT(refusal([&] { run.boundary(4); }),
              HasSubstr("sparsity 0.3 by score update removes all of '" +
                        std::string(kQuery)));
}

}  // namespace
}  // namespace thinwire
