// What every method must keep, looped over the registry: a new line in
// methods.def is tested at once.
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros.h>
#include <ATen/ops/zeros_like.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <cmath>
#include <cstring>
#include <filesystem>
#include <numeric>
#include <set>

#include "base/error.h"
#include "base/random.h"
#include "ops/optimizer_pass.h"
#include "peft/delta_file.h"
#include "peft/method_tools.h"
#include "peft/testing.h"

namespace thinwire {
namespace {

using testing::contract_of;
using testing::Start;
using testing::Tiny;
using testing::tiny_config;
using testing::TinyScoring;
using Json = nlohmann::ordered_json;

struct Case {
  std::string method;
  Json config;
  std::string model;
  Start start;
};

void PrintTo(const Case& c, std::ostream* out) {
  *out << c.method << " " << c.config << " on " << c.model;
}

std::vector<Case> cases() {
  std::vector<Case> out;
  for (const MethodInfo& info : methods()) {
    for (const std::string model :
         {"bart_text", "bert_classify", "gpt2_classify", "gpt2_lm",
          "roberta_classify", "t5_tied", "t5_gated"}) {
      if (info.id == "head" && !model.ends_with("classify")) continue;
      if (!testing::runs_on(info.id, model)) continue;
      out.push_back({std::string(info.id), tiny_config(info.id), model,
                     contract_of(info.id).start});
    }
  }
  const auto more = [&](const char* method, Json config, const char* model,
                        Start start) {
    out.push_back({method, std::move(config), model, start});
  };
  more("lora", {{"target_modules", "all-linear"}, {"use_rslora", true}},
       "bert_classify", Start::kEqual);
  more("houlsby", {{"bottleneck", 3}, {"cross_adapter", true}, {"init_std", 0}},
       "t5_gated", Start::kNear);
  more("houlsby",
       {{"bottleneck", 3}, {"init", "lora"}, {"drop_first", 1}, {"scaling", 2}},
       "t5_gated", Start::kEqual);
  more("houlsby", {{"bottleneck", 3}, {"init_std", 1e-3}, {"robust_drop", 2}},
       "t5_gated", Start::kNear);
  more("parallel_adapter",
       {{"bottleneck", 3}, {"self_attention", true}, {"learn_scaling", true}},
       "bert_classify", Start::kEqual);
  more("compacter",
       {{"bottleneck", 6},
        {"phm_dim", 2},
        {"phm_rank", 2},
        {"self_attention", false}},
       "bert_classify", Start::kNear);
  more("lora", {{"target_modules", "all-linear"}}, "gpt2_lm", Start::kEqual);
  more("ia3",
       {{"target_modules", {"c_attn", "c_fc", "mlp.c_proj"}},
        {"feedforward_modules", "mlp.c_proj"}},
       "gpt2_lm", Start::kEqual);
  more("prefix_tuning", {{"length", 2}, {"reparametrise", false}}, "gpt2_lm",
       Start::kAnother);
  more("ia3",
       {{"target_modules", {"q", "wi_1"}}, {"feedforward_modules", "wi_1"}},
       "t5_gated", Start::kEqual);
  more("prefix_tuning", {{"length", 2}, {"reparametrise", false}}, "t5_gated",
       Start::kAnother);
  more("sparse_structure",
       {{"lora", {"query", "intermediate.dense"}},
        {"bias", {"0.output.dense", "embeddings.LayerNorm"}},
        {"gain", "LayerNorm"}},
       "bert_classify", Start::kEqual);
  more("sparse_structure", {{"lora", "c_attn"}, {"gain", {"ln_1", "ln_f"}}},
       "gpt2_lm", Start::kEqual);
  more("prompt_tuning",
       {{"length", 3}, {"init", "tokens"}, {"init_tokens", {"3", "4 5"}}},
       "bert_classify", Start::kAnother);
  return out;
}

class Contract : public ::testing::TestWithParam<Case> {
 protected:
  Contract() : tiny(GetParam().model), scoring(tiny) {}

  std::unique_ptr<Method> make() const {
    return make_method(GetParam().method, GetParam().config);
  }
  Delta declare(Method& method, std::uint64_t seed = 1) {
    return testing::declare(method, *tiny.backbone,
                            {.seed = seed, .scoring = &scoring});
  }
  // Away from initial values, so that no term is zero.
  static void disturb(Delta& delta, Parameters& p, float by = 0.05f) {
    at::Tensor noise = at::zeros_like(delta.values());
    fill_normal(noise.mutable_data_ptr<float>(), noise.numel(), 5, "noise", by);
    for (const DeltaEntry& e : delta.entries()) {
      delta.values()
          .narrow(0, e.offset, e.count)
          .add_(noise.narrow(0, e.offset, e.count));
    }
    delta.write_back(p);
  }
  static std::vector<at::Tensor> frozen(const Parameters& p) {
    std::vector<at::Tensor> out;
    for (int i = 0; i < p.size(); ++i) out.push_back(p.slot(i).frozen.clone());
    return out;
  }

  Tiny tiny;
  TinyScoring scoring;
};

class SmoothContract : public Contract {};

TEST_P(Contract, AttachFreezesTheRest) {
  const auto method = make();
  Delta delta = declare(*method);
  tiny.adopt(*method, delta);
  const Parameters& p = tiny.backbone->parameters();
  for (int i = 0; i < p.size(); ++i) {
    bool target = false;
    for (const DeltaEntry& e : delta.entries()) {
      target = target || e.target == p.slot(i).name;
    }
    EXPECT_EQ(p.trains(i), target) << p.slot(i).name;
    EXPECT_FALSE(p.slot(i).frozen.requires_grad());
  }
  tiny.loss().backward();
  for (int i = 0; i < p.size(); ++i) {
    EXPECT_FALSE(p.slot(i).frozen.grad().defined());
  }
  EXPECT_GT(delta.grads().norm().item<double>(), 0);
}

TEST_P(Contract, StepZeroIsTheBackboneWhereThePaperSaysSo) {
  const at::Tensor bare = tiny.logits().detach();
  const auto method = make();
  const Delta delta = declare(*method);
  tiny.adopt(*method, delta);
  const at::Tensor start = tiny.logits().detach();
  switch (GetParam().start) {
    case Start::kEqual:
      EXPECT_TRUE(start.equal(bare));
      break;
    case Start::kNear:
      EXPECT_TRUE(golden_close("logits", start, bare, 1e-2));
      break;
    case Start::kAnother:
      EXPECT_FALSE(golden_close("logits", start, bare, 1e-2));
      break;
  }
}

TEST_P(Contract, TheLayoutIsAFunctionOfConfigBackboneAndSeed) {
  const auto one = make(), two = make();
  const Delta a = declare(*one), b = declare(*two), c = declare(*one);
  EXPECT_EQ(a.hash(), b.hash());
  EXPECT_EQ(a.hash(), c.hash());
  EXPECT_TRUE(a.values().equal(b.values()));
  // A seed moves values alone, but for masks that depend on them.
  const Delta d = declare(*two, 2);
  const bool inside = std::ranges::any_of(a.entries(), [](const auto& e) {
    return e.kind == EntryKind::kMasked && e.target.empty();
  });
  EXPECT_TRUE(inside || a.hash() == d.hash());
  EXPECT_EQ(a.trainable(), d.trainable());
  const Json config = Json::parse(a.method_configs().at(0));
  EXPECT_EQ(config.at("method"), GetParam().method);
  EXPECT_EQ(declare(*make_method(GetParam().method, config)).hash(), a.hash());
}

TEST_P(Contract, CountingWithoutScoringHasTheSameSize) {
  const auto method = make();
  const Delta scored = declare(*method);
  const Delta counted = testing::declare(*method, *tiny.backbone);
  EXPECT_EQ(scored.trainable(), counted.trainable());
}

TEST_P(Contract, SavedAndLoadedItGivesTheSameOutput) {
  const auto method = make();
  Delta delta = declare(*method);
  tiny.adopt(*method, delta);
  disturb(delta, tiny.backbone->parameters());
  const at::Tensor before = tiny.logits().detach();
  const std::string path = std::filesystem::temp_directory_path() /
                           ("contract_" + std::to_string(getpid()));
  save_delta(path, delta, Digest{});
  const DeltaFile file = load_delta(path);
  std::filesystem::remove(path);
  EXPECT_EQ(file.delta.hash(), delta.hash());
  Tiny fresh(GetParam().model);
  const auto again = make_method(
      GetParam().method, Json::parse(file.delta.method_configs().at(0)));
  fresh.adopt(*again, file.delta);
  EXPECT_TRUE(fresh.logits().detach().equal(before));
}

TEST_P(Contract, MergedEqualsUnmerged) {
  const auto method = make();
  Delta delta = declare(*method);
  tiny.adopt(*method, delta);
  disturb(delta, tiny.backbone->parameters());
  MergedSlots slots;
  if (!method->mergeable()) {
    EXPECT_THROW(method->merge(*tiny.backbone, delta, slots), UsageError);
    return;
  }
  const at::Tensor before = tiny.logits().detach();
  method->merge(*tiny.backbone, delta, slots);
  Tiny fresh(GetParam().model);
  for (const auto& [slot, weight] : slots) {
    at::Tensor target = fresh.backbone->parameters().slot(slot).frozen;
    target.copy_(weight);
  }
  // LoRA's product is rounded once more; all others are the same numbers.
  EXPECT_TRUE(golden_close("logits", fresh.logits(), before, 5e-6));
}

// Sequences lie end to end, without padding; alone, each must have the loss and
// the gradient that it has there, its dropout included.
TEST_P(Contract, PackedItIsTheSumOfEachAlone) {
  Json config = GetParam().config;
  for (const Field& f : find_method(GetParam().method).fields) {
    if (f.name == "dropout") config["dropout"] = 0.2;
  }
  const auto method = make_method(GetParam().method, config);
  Delta delta = declare(*method);
  tiny.adopt(*method, delta);
  disturb(delta, tiny.backbone->parameters());
  tiny.backbone->set_dropout(0.1);
  ForwardContext ctx;
  ctx.training = true;
  ctx.seed = 3;
  ctx.step = 4;
  const at::Tensor loss = tiny.loss(tiny.batch.input, ctx);
  loss.backward();
  const at::Tensor packed = delta.grads().clone();
  delta.zero_grads();
  double sum = 0;
  const std::int64_t batch = tiny.batch.input.encoder.layout.batch();
  for (std::int64_t b = 0; b < batch; ++b) {
    HfBatch alone = tiny.example(b);
    alone.input.encoder.layout.samples.fill_(b);
    if (alone.input.decoder.tokens.defined()) {
      alone.input.decoder.layout.samples.fill_(b);
    }
    const at::Tensor own = tiny.loss(alone.input, ctx);
    own.backward();
    sum += own.item<double>();
  }
  EXPECT_NEAR(sum / loss.item<double>(), 1, 1e-5);
  EXPECT_TRUE(golden_close("gradient", delta.grads(), packed));
}

// On models and adapters without the kinks of relu, across which differences
// are none.
// Along the gradient itself, where the difference is largest against the
// rounding of the loss; Richardson's extrapolation of two central differences
// has an error of h^4.
TEST_P(SmoothContract, GradientsAgreeWithDifferences) {
  const auto method = make();
  Delta delta = declare(*method);
  tiny.adopt(*method, delta);
  disturb(delta, tiny.backbone->parameters());
  tiny.loss().backward();
  const at::Tensor direction = delta.grads().div(delta.grads().norm()).clone();
  const double expected = delta.grads().norm().item<double>();
  const at::Tensor start = delta.snapshot();
  const auto loss_at = [&](double h) {
    delta.restore(start.add(direction, h));
    delta.write_back(tiny.backbone->parameters());
    return cross_entropy_rows(tiny.logits().detach(), tiny.batch.input.labels)
        .to(at::kDouble)
        .sum()
        .item<double>();
  };
  const auto slope = [&](double h) {
    return (loss_at(h) - loss_at(-h)) / (2 * h);
  };
  // The loss moves by 0.2 to either side. It is 3 to 300, of rows rounded by
  // some 1e-6 of themselves: 1e-3 of the slope.
  const double h = 0.2 / expected;
  const double found = (4 * slope(h / 2) - slope(h)) / 3;
  EXPECT_NEAR(found / expected, 1, 5e-3);
}

TEST_P(Contract, AStepWithDecayMovesTrainablesAlone) {
  const auto method = make();
  Delta delta = declare(*method);
  tiny.adopt(*method, delta);
  Parameters& p = tiny.backbone->parameters();
  const std::vector<at::Tensor> before = frozen(p);
  const at::Tensor start = delta.snapshot();
  tiny.loss().backward();
  at::Tensor m = at::zeros_like(delta.values()), v = at::zeros_like(m);
  for (const DeltaEntry& e : delta.entries()) {
    const double decay =
        0.1 *
        delta.groups()[static_cast<std::size_t>(e.group)].weight_decay_factor;
    const auto at = [&](at::Tensor& t) {
      return t.mutable_data_ptr<float>() + e.offset;
    };
    adamw_pass(at(delta.values()), at(delta.grads()), at(m), at(v), nullptr,
               e.count,
               {.lr = 1e-2,
                .beta1 = 0.9,
                .beta2 = 0.999,
                .epsilon = 1e-8,
                .weight_decay = decay,
                .step = 1,
                .grad_scale = 1});
  }
  delta.write_back(p);
  EXPECT_FALSE(delta.values().equal(start));
  for (int i = 0; i < p.size(); ++i) {
    const at::Tensor now = p.slot(i).frozen.flatten();
    const at::Tensor was = before[static_cast<std::size_t>(i)].flatten();
    at::Tensor free = at::zeros({now.numel()}, at::kBool);
    if (p.slot(i).index.defined()) {
      free.index_fill_(0, p.slot(i).index.to(at::kLong), true);
    }
    const auto* a = now.const_data_ptr<float>();
    const auto* b = was.const_data_ptr<float>();
    const auto* may = free.const_data_ptr<bool>();
    for (std::int64_t j = 0; j < now.numel(); ++j) {
      if (may[j]) continue;
      ASSERT_EQ(std::memcmp(a + j, b + j, 4), 0) << p.slot(i).name;
    }
  }
  for (const DeltaEntry& e : delta.entries()) {
    if (e.shape.size() < 2) {
      EXPECT_EQ(
          delta.groups()[static_cast<std::size_t>(e.group)].weight_decay_factor,
          0)
          << e.name;
    }
  }
}

TEST_P(Contract, GapsStayZero) {
  const auto method = make();
  Delta delta = declare(*method);
  tiny.adopt(*method, delta);
  tiny.loss().backward();
  for (const DeltaEntry& e : delta.entries()) {
    for (std::int64_t i = e.offset + e.count; i % 4 != 0; ++i) {
      EXPECT_EQ(delta.grads().const_data_ptr<float>()[i], 0);
      EXPECT_EQ(delta.values().const_data_ptr<float>()[i], 0);
    }
  }
}

std::vector<Case> smooth_cases() {
  std::vector<Case> out = cases();
  // HyperPrompt's own layers have a relu, whatever the model.
  std::erase_if(out, [](const Case& c) {
    return c.model == "t5_tied" || c.method == "hyperprompt";
  });
  for (Case& c : out) {
    for (const Field& f : find_method(c.method).fields) {
      if (f.name == "non_linearity") c.config["non_linearity"] = "gelu";
    }
  }
  return out;
}

std::string case_name(const ::testing::TestParamInfo<Case>& info) {
  return info.param.method + "_" + info.param.model + "_" +
         std::to_string(info.index);
}

INSTANTIATE_TEST_SUITE_P(Methods, Contract, ::testing::ValuesIn(cases()),
                         case_name);
INSTANTIATE_TEST_SUITE_P(Methods, SmoothContract,
                         ::testing::ValuesIn(smooth_cases()), case_name);

// Of the architectures that a method's contract leaves out.
TEST(Methods, WhatAMethodDoesNotTakeItRefuses) {
  int refused = 0;
  for (const MethodInfo& info : methods()) {
    for (const char* model : {"bart_text", "bert_classify", "gpt2_lm",
                              "roberta_classify", "t5_tied"}) {
      if (testing::runs_on(info.id, model)) continue;
      Tiny tiny(model);
      const auto method = make_method(info.id, tiny_config(info.id));
      EXPECT_THROW(testing::declare(*method, *tiny.backbone), UsageError)
          << info.id << " on " << model;
      ++refused;
    }
  }
  EXPECT_GT(refused, 0);
}

// n of 0 to 2 is drawn anew each step, and the first n layers have no adapter.
TEST(AdapterDrop, TrainingLeavesOutTheFirstLayers) {
  Tiny tiny("bert_classify");
  const auto method =
      make_method("houlsby", {{"bottleneck", 3}, {"robust_drop", 2}});
  Delta delta = testing::declare(*method, *tiny.backbone);
  tiny.adopt(*method, delta);
  tiny.backbone->set_dropout(0);
  const auto moves = [&](int layer) {
    return delta
               .leaf("bert.encoder.layer." + std::to_string(layer) +
                     ".output.adapters.thinwire.adapter_up.weight")
               .grad()
               .norm()
               .item<double>() > 0;
  };
  std::set<std::pair<bool, bool>> seen;
  for (std::uint64_t step = 0; step < 20; ++step) {
    ForwardContext ctx;
    ctx.training = true;
    ctx.step = step;
    delta.zero_grads();
    tiny.loss(tiny.batch.input, ctx).backward();
    seen.emplace(moves(0), moves(1));
  }
  const std::set<std::pair<bool, bool>> want{
      {true, true}, {false, true}, {false, false}};
  EXPECT_EQ(seen, want);
  delta.zero_grads();
  tiny.loss().backward();
  EXPECT_TRUE(moves(0));
}

}  // namespace
}  // namespace thinwire
