// Diff pruning besides its formula without noise (golden_test.cpp): with noise,
// what it counts, keeps and refuses. The cut and whole runs:
// dist/diff_pruning_test.cpp.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/error.h"
#include "peft/testing.h"

namespace thinwire {
namespace {

using ::testing::HasSubstr;
using testing::Tiny;
using testing::TinyScoring;
using Json = nlohmann::ordered_json;

struct Golden {
  explicit Golden(const std::string& name)
      : folder(golden_path(name)),
        about(testing::read_json(folder + "/adapter.json")),
        file(folder + "/golden.safetensors"),
        tiny(about.at("model").get<std::string>()),
        method(make_method("diff_pruning", about.at("config"))),
        delta(testing::declare(*method, *tiny.backbone)) {
    for (std::size_t i = 0; i < delta.entries().size(); ++i) {
      delta.leaf(static_cast<int>(i))
          .detach()
          .copy_(file.tensor("value." + delta.entries()[i].name));
    }
    tiny.adopt(*method, delta);
    tiny.backbone->set_dropout(0);
  }

  std::string folder;
  Json about;
  SafetensorsFile file;
  Tiny tiny;
  std::unique_ptr<Method> method;
  Delta delta;
};

TEST(DiffPruning, WithNoiseOutputsAndGradientsAgree) {
  for (const char* name : {"diff_pruning_bert", "diff_pruning_t5"}) {
    for (const bool checkpointed : {false, true}) {
      SCOPED_TRACE(name);
      Golden g(name);
      ForwardContext ctx;
      ctx.training = true;
      ctx.checkpoint_blocks = checkpointed;
      ctx.seed = g.about.at("noise").at("seed").get<std::uint64_t>();
      ctx.step = g.about.at("noise").at("step").get<std::uint64_t>();
      const at::Tensor logits = g.tiny.logits(g.tiny.batch.input, ctx);
      EXPECT_TRUE(golden_close(
          "logits", g.tiny.classifier < 0 ? g.tiny.cells().pad(logits) : logits,
          g.file.tensor("noisy_logits")));
      cross_entropy_sum(logits, g.tiny.batch.input.labels).backward();
      for (std::size_t i = 0; i < g.delta.entries().size(); ++i) {
        const std::string& entry = g.delta.entries()[i].name;
        EXPECT_TRUE(golden_close(entry,
                                 g.delta.leaf(static_cast<int>(i)).grad(),
                                 g.file.tensor("noisy_grad." + entry)));
      }
    }
  }
}

std::int64_t count(const Backbone& bert, Json config, std::int64_t step) {
  config["gate_steps"] = 10;
  return testing::declare(*make_method("diff_pruning", config), bert,
                          {.step = step})
      .trainable();
}

// Twice all numbers but the head's.
TEST(DiffPruning, BeforeTheCutEveryNumberHasAGate) {
  const auto bert = testing::count_bert(2, 128, 100, 2);
  const Parameters& p = bert->parameters();
  std::int64_t tensors = 0;
  for (int i = 0; i < p.size(); ++i) {
    tensors += !p.slot(i).head && !p.slot(i).buffer;
  }
  const std::int64_t all = 2 * p.count(false) + 2 * 129;
  EXPECT_EQ(count(*bert, Json::object(), 0), all + tensors);
  EXPECT_EQ(count(*bert, {{"structured", false}}, 9), all);
}

// 0.5 % of all numbers, the head beside them, as published.
TEST(DiffPruning, KeepsItsShareOfBertLarge) {
  const auto bert = testing::count_bert(24, 1024, 28996, 2);
  ASSERT_EQ(bert->parameters().count(), 333581314);
  EXPECT_EQ(count(*bert, Json::object(), 10), 1667906 + 2 * 1025);
  EXPECT_EQ(count(*bert, {{"count_head_in_budget", true}}, 10), 1667906);
}

TEST(DiffPruning, GatesHaveARateAndAClippingOfTheirOwn) {
  Tiny tiny("bert_classify");
  const auto method = make_method(
      "diff_pruning", {{"gate_lr_factor", 30}, {"diff_lr_factor", 0.5}});
  const auto group = [&](std::int64_t step, const std::string& entry) {
    const Delta d = testing::declare(*method, *tiny.backbone, {.step = step});
    const int at = d.find(entry);
    EXPECT_GE(at, 0) << entry;
    const DeltaEntry& e = d.entries()[static_cast<std::size_t>(at)];
    return d.groups()[static_cast<std::size_t>(e.group)];
  };
  const std::string weight = "bert.pooler.dense.weight";
  EXPECT_EQ(group(0, weight).lr_factor, 0.5);
  EXPECT_EQ(group(0, "classifier.weight").lr_factor, 0.5);
  EXPECT_EQ(group(0, weight).clip_group, "all");
  for (const char* kind : {"gate.", "tensor_gate."}) {
    const DeltaGroup gates = group(0, "diff_pruning." + (kind + weight));
    EXPECT_EQ(gates.lr_factor, 30);
    EXPECT_EQ(gates.weight_decay_factor, 0);
    EXPECT_EQ(gates.clip_group, "gates");
  }
  EXPECT_EQ(group(1000, "diff_pruning." + weight).lr_factor, 1);
  EXPECT_EQ(group(1000, "classifier.weight").lr_factor, 1);
}

// A gate of a tensor that is closed, and gates of numbers: what they hide is
// not kept, however far it moved, and the head stays where it was.
TEST(DiffPruning, TheCutKeepsWhatOpenGatesLetThrough) {
  Tiny tiny("bert_classify");
  TinyScoring scoring(tiny);
  const auto method =
      make_method("diff_pruning", {{"density", 0.01}, {"gate_steps", 3}});
  Delta ended = testing::declare(*method, *tiny.backbone);
  const auto numbers = [&](const std::string& name) {
    return ended.leaf(name).detach();
  };
  const std::string weight = "bert.pooler.dense.weight";
  numbers("bert.pooler.dense.bias").add_(100);  // all 24
  numbers("diff_pruning.tensor_gate.bert.pooler.dense.bias").fill_(-1);
  numbers(weight).add_(2);  // all 576
  numbers("diff_pruning.gate." + weight).fill_(-3);
  numbers("diff_pruning.gate." + weight).narrow(0, 0, 4).fill_(1);  // 96
  numbers("classifier.bias").fill_(7);
  const at::Tensor before = numbers(weight).clone();
  tiny.adopt(*method, ended);
  const at::Tensor seen =
      tiny.backbone->parameters()
          .get(tiny.backbone->parameters().require(weight), {})
          .detach();
  tiny.backbone->parameters().freeze_all();
  const auto cut = [&](double density) {
    const auto again =
        make_method("diff_pruning", {{"density", density}, {"gate_steps", 3}});
    return testing::declare(*again, *tiny.backbone,
                            {.step = 3, .scoring = &scoring, .ended = &ended});
  };
  // floor(0.008 x 11,099 numbers) = 88 of the 96.
  const Delta kept = cut(0.008);
  ASSERT_EQ(kept.entries().size(), 3u);
  const DeltaEntry& e = kept.entries()[0];
  EXPECT_EQ(e.name, "diff_pruning." + weight);
  EXPECT_EQ(e.target, weight);
  EXPECT_EQ(e.count, 88);
  EXPECT_LT(e.index.max().item<int>(), 96);
  EXPECT_TRUE(
      kept.leaf(0).detach().equal(seen.flatten().index_select(0, e.index)));
  EXPECT_FALSE(seen.equal(before));
  EXPECT_TRUE(kept.leaf("classifier.bias").eq(7).all().item<bool>());
  try {
    cut(0.01);
    FAIL() << "kept what was closed";
  } catch (const UsageError& error) {
    EXPECT_STREQ(error.what(),
                 "diff_pruning: density 0.01 asks for 110 numbers, and at step "
                 "3 only 96 differ with an open gate; lower density, "
                 "l0_penalty or gate_lr_factor");
  }
}

TEST(DiffPruning, ItsPenaltyHasTheGradientOfDifferences) {
  Golden g("diff_pruning_bert");
  const auto method = make_method(
      "diff_pruning",
      {{"l0_penalty", 0.25}, {"exclude", g.about.at("config").at("exclude")}});
  const double penalty = method->add_penalty(g.delta, 3);
  const at::Tensor grads = g.delta.grads().clone();
  std::int64_t gates = 0;
  const double h = 1e-2;
  double along = 0, slope = 0;
  const at::Tensor start = g.delta.snapshot();
  for (const double sign : {1.0, -1.0}) {
    g.delta.restore(start.add(grads, sign * h));
    slope += sign * method->add_penalty(g.delta, 0) / (2 * h);
  }
  for (const DeltaEntry& e : g.delta.entries()) {
    const double norm =
        grads.narrow(0, e.offset, e.count).norm().item<double>();
    const bool gate = e.name.find("gate.") != std::string::npos;
    gates += gate ? e.count : 0;
    EXPECT_EQ(norm > 0, gate) << e.name;
    along += norm * norm / 3;
  }
  EXPECT_NEAR(slope / along, 1, 1e-3);
  EXPECT_GT(penalty, 0);
  EXPECT_LT(penalty, 0.25 * static_cast<double>(gates));
}

TEST(DiffPruning, PhasesAndRefusals) {
  const auto method = make_method("diff_pruning", {{"gate_steps", 7}});
  EXPECT_EQ(method->next_boundary(0), 7);
  EXPECT_EQ(method->next_rewind(6), 7);
  EXPECT_EQ(method->next_rewind(7), std::nullopt);
  EXPECT_EQ(method->next_boundary(7), std::nullopt);
  const auto refusal = [](const Json& config) {
    try {
      make_method("diff_pruning", config);
    } catch (const UsageError& e) {
      return std::string(e.what());
    }
    return std::string("accepted");
  };
  EXPECT_EQ(refusal({{"gate_steps", 0}}),
            "diff_pruning: gate_steps must be at least 1, got 0");
  EXPECT_EQ(refusal({{"l0_penalty", -1}}),
            "diff_pruning: l0_penalty must be 0 or more, got -1");
  EXPECT_THAT(refusal({{"gate_start", 0}}), HasSubstr("got 0"));
  EXPECT_EQ(refusal({{"gate_lr_factor", 0}}),
            "diff_pruning: gate_lr_factor must be more than 0, got 0");
  EXPECT_THAT(refusal({{"density", 0}}), HasSubstr("(0, 1]"));
}

}  // namespace
}  // namespace thinwire
