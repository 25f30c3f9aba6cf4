// What attachments do at each of the five kinds of site, on every kind of
// model.
#include "models/sites.h"

#include <ATen/ops/cat.h>
#include <ATen/ops/full.h>
#include <ATen/ops/linear.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros.h>
#include <gtest/gtest.h>

#include <cmath>

#include "base/error.h"
#include "models/test_models.h"

namespace thinwire {
namespace {

// Numbers that belong to a name, of a size that matters.
at::Tensor numbers(const char* name, std::vector<std::int64_t> shape) {
  return random_source(3)->get({name}, shape, {Init::Kind::kNormal, 0.5f});
}

at::Tensor tokens(std::vector<std::int64_t> ids, std::int64_t rows) {
  return at::tensor(ids, at::kLong).view({rows, -1});
}

struct Fixture {
  explicit Fixture(const char* name)
      : model(load_backbone(golden_path(name))),
        golden(golden_path(name) + "/golden.safetensors"),
        batch(golden_inputs(golden, model->config())) {}

  at::Tensor hidden(const ForwardContext& ctx = {}) {
    return model->forward(batch.input, ctx).hidden;
  }
  int site(SiteKind kind, const char* name) {
    const int found = model->find_site(kind, name);
    EXPECT_GE(found, 0) << name;
    return found;
  }

  std::unique_ptr<Backbone> model;
  SafetensorsFile golden;
  HfBatch batch;
};

struct Scales : LinearAttachment {
  at::Tensor in, out, more, a, b;
  at::Tensor scale_in(const ForwardContext&) override { return in; }
  at::Tensor scale_out(const ForwardContext&) override { return out; }
  at::Tensor bias(const ForwardContext&) override { return more; }
  at::Tensor path(const at::Tensor& x, const ForwardContext& ctx) override {
    EXPECT_EQ(ctx.layout->rows(), x.size(0));
    return a.defined() ? at::linear(at::linear(x, a), b) : at::Tensor();
  }
};

// The formula of sites.h, by merging it into the weights of a second model.
TEST(LinearSite, ScalesBiasAndPathsMergeIntoTheWeight) {
  Fixture plain("bert_bare"), merged("bert_bare");
  const char* name = "bert.encoder.layer.1.intermediate.dense";
  const int site = plain.site(SiteKind::kLinear, name);
  auto first = std::make_shared<Scales>();
  first->in = numbers("in", {24});
  first->out = numbers("out", {40});
  first->more = numbers("more", {40});
  auto second = std::make_shared<Scales>();
  second->a = numbers("a", {2, 24});
  second->b = numbers("b", {40, 2});
  plain.model->attach(site, first);
  plain.model->attach(site, second);

  Parameters& p = merged.model->parameters();
  const int w = p.require(std::string(name) + ".weight");
  const int b = p.require(std::string(name) + ".bias");
  p.set_leaf(w, p.slot(w)
                    .frozen.mul(first->in)
                    .add(second->b.mm(second->a))
                    .mul(first->out.unsqueeze(1)));
  p.set_leaf(b, p.slot(b).frozen.add(first->more).mul(first->out));
  EXPECT_TRUE(golden_close("hidden", plain.hidden(), merged.hidden(), 2e-6));

  plain.model->detach_all();
  EXPECT_TRUE(plain.hidden().equal(Fixture("bert_bare").hidden()));
}

// Every linear site's attachments see a layout of x's own rows, also where x
// is the encoder's output or one row a sequence.
TEST(LinearSite, TheContextDescribesTheRows) {
  for (const char* name : {"t5_gated", "bert_classify", "gpt2_lm"}) {
    Fixture f(name);
    for (std::size_t i = 0; i < f.model->sites().size(); ++i) {
      if (f.model->sites()[i].kind != SiteKind::kLinear) continue;
      if (f.model->sites()[i].name == "lm_head") continue;
      f.model->attach(static_cast<int>(i), std::make_shared<Scales>());
    }
    const BackboneOutput out = f.model->forward(f.batch.input, {});
    if (f.model->config().architecture == "bert") f.model->pooled(out, {});
  }
}

struct Bottleneck : SublayerAttachment {
  at::Tensor w = numbers("bottleneck", {20, 20});
  bool after_norm = false;
  at::Tensor seen_input;
  at::Tensor adapt(const SublayerState& s, const ForwardContext&) override {
    seen_input = s.input;
    const at::Tensor from = after_norm ? s.norm(s.x.add(s.u)) : s.u;
    return s.u.add(at::linear(from, w));
  }
};

// u + W u is (I + W) u: merged into the sublayer's output matrix.
TEST(SublayerSite, HoulsbyMergesIntoTheOutputMatrix) {
  Fixture f("t5_tied"), merged("t5_tied");
  auto adapter = std::make_shared<Bottleneck>();
  f.model->attach(f.site(SiteKind::kSublayer, "decoder.block.1.layer.1"),
                  adapter);
  Parameters& p = merged.model->parameters();
  const int o = p.require("decoder.block.1.layer.1.EncDecAttention.o.weight");
  const at::Tensor before = p.slot(o).frozen;
  p.set_leaf(o, before.add(adapter->w.mm(before)));
  EXPECT_TRUE(golden_close("hidden", f.hidden(), merged.hidden(), 5e-6));
  EXPECT_EQ(adapter->seen_input.size(1), 20);
}

TEST(SublayerSite, PostNormModelsLendTheirNorm) {
  Fixture f("bert_bare");
  const char* name = "bert.encoder.layer.1.output";
  const int number = f.site(SiteKind::kSublayer, name);
  const Site& site = f.model->sites()[static_cast<std::size_t>(number)];
  EXPECT_EQ(site.role, Role::kFeedForward);
  EXPECT_EQ(f.model->parameters().slot(site.norm_weight).name,
            "bert.encoder.layer.1.output.LayerNorm.weight");
  const at::Tensor plain = f.hidden();
  auto adapter = std::make_shared<Bottleneck>();
  adapter->w = at::zeros({24, 24});
  adapter->after_norm = true;
  f.model->attach(number, adapter);
  EXPECT_TRUE(f.hidden().equal(plain)) << "a zero adapter is the backbone";
  adapter->w = numbers("w", {24, 24});
  EXPECT_FALSE(f.hidden().equal(plain));
}

struct Prefix : AttentionAttachment {
  at::Tensor k, v;
  std::pair<at::Tensor, at::Tensor> extra_keys_values(
      const ForwardContext&) override {
    return {k, v};
  }
};

// BERT: a prefix whose keys and values are those of a real row, with bias 0,
// counts as that row once more. With every row doubled, nothing changes.
TEST(AttentionSite, DoublingTheKeysChangesNothing) {
  Fixture f("bert_bare");
  const HfBatch one =
      read_hf_inputs({{"input_ids", tokens({5, 6, 7}, 1)}}, f.model->config());
  const at::Tensor plain = f.model->forward(one.input, {}).hidden;

  struct Tap : TapAttachment {
    at::Tensor input;
    at::Tensor layer_input(const at::Tensor& h,
                           const ForwardContext&) override {
      input = h;
      return h;
    }
  };
  auto tap = std::make_shared<Tap>();
  f.model->attach(f.site(SiteKind::kTap, "bert.encoder.layer.1"), tap);
  f.model->forward(one.input, {});
  ForwardContext ctx;
  ctx.layout = &one.input.encoder.layout;
  const std::string self = "bert.encoder.layer.1.attention.self";
  const auto project = [&](const char* which) {
    return f.model->linear(f.model->find_site(SiteKind::kLinear, self + which),
                           tap->input, ctx);
  };
  const at::Tensor k = project(".key"), v = project(".value");
  // In two parts: one shared by the batch, one per sequence.
  auto shared = std::make_shared<Prefix>();
  shared->k = k.narrow(0, 0, 2);
  shared->v = v.narrow(0, 0, 2);
  auto own = std::make_shared<Prefix>();
  own->k = k.narrow(0, 2, 1).unsqueeze(0);
  own->v = v.narrow(0, 2, 1).unsqueeze(0);
  const int site = f.site(SiteKind::kAttention, self.c_str());
  f.model->attach(site, shared);
  f.model->attach(site, own);
  EXPECT_TRUE(golden_close("hidden", f.model->forward(one.input, {}).hidden,
                           plain, 2e-6));
  own->v = own->v.add(1);
  EXPECT_FALSE(golden_close("hidden", f.model->forward(one.input, {}).hidden,
                            plain, 1e-3));
}

TEST(AttentionSite, CrossAttentionTakesExtras) {
  Fixture f("t5_tied");
  const at::Tensor plain = f.hidden();
  auto prefix = std::make_shared<Prefix>();
  prefix->k = numbers("k", {2, 21});
  prefix->v = numbers("v", {2, 21});
  f.model->attach(
      f.site(SiteKind::kAttention, "decoder.block.0.layer.1.EncDecAttention"),
      prefix);
  const at::Tensor with = f.hidden();
  EXPECT_EQ(with.sizes(), plain.sizes());
  EXPECT_FALSE(golden_close("hidden", with, plain, 1e-3));
}

struct Prompt : EmbeddingAttachment {
  at::Tensor table;
  std::int64_t at = 0;
  std::int64_t rows() const override { return table.size(-2); }
  std::int64_t insert_at() const override { return at; }
  at::Tensor vectors(const at::Tensor& embeddings,
                     const ForwardContext& ctx) override {
    EXPECT_EQ(embeddings.size(0), ctx.layout->rows());
    return table;
  }
};

// A prompt made of the embeddings of real tokens is those tokens: positions
// and relative distances shift, cross-attention sees the longer memory.
TEST(EmbeddingSite, T5PromptOfTokensIsTheTokens) {
  Fixture f("t5_gated");
  const at::Tensor table =
      f.model->parameters()
          .slot(f.model->parameters().require("shared.weight"))
          .frozen;
  const at::Tensor decoder = tokens({0, 4, 5, 0, 6, 7}, 2);
  const HfBatch whole = read_hf_inputs(
      {{"input_ids", tokens({11, 12, 13, 5, 6, 7, 11, 12, 13, 8, 9, 0}, 2)},
       {"attention_mask", tokens({1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 0}, 2)},
       {"decoder_input_ids", decoder}},
      f.model->config());
  const HfBatch rest =
      read_hf_inputs({{"input_ids", tokens({5, 6, 7, 8, 9, 0}, 2)},
                      {"attention_mask", tokens({1, 1, 1, 1, 1, 0}, 2)},
                      {"decoder_input_ids", decoder}},
                     f.model->config());
  const at::Tensor expected = f.model->forward(whole.input, {}).hidden;
  const int site = f.site(SiteKind::kEmbedding, "encoder.embed_tokens");
  // The second goes in front of the first.
  auto last = std::make_shared<Prompt>();
  last->table = table.narrow(0, 13, 1);
  auto first = std::make_shared<Prompt>();
  first->table = table.narrow(0, 11, 2).unsqueeze(0).expand({2, -1, -1});
  f.model->attach(site, last);
  f.model->attach(site, first);
  EXPECT_TRUE(golden_close("hidden", f.model->forward(rest.input, {}).hidden,
                           expected, 2e-6));
}

TEST(EmbeddingSite, TheOutputTellsWhereTokensWent) {
  Fixture f("t5_gated");
  const HfBatch batch = read_hf_inputs(
      {{"input_ids", tokens({5, 6}, 1)},
       {"decoder_input_ids", tokens({0, 4, 5, 0, 6, 7}, 2).narrow(0, 0, 1)}},
      f.model->config());
  const BackboneOutput plain = f.model->forward(batch.input, {});
  EXPECT_FALSE(plain.token_rows.defined());
  EXPECT_TRUE(plain.token_states().is_same(plain.hidden));
  auto prompt = std::make_shared<Prompt>();
  prompt->table = numbers("prompt", {2, 20});
  f.model->attach(f.site(SiteKind::kEmbedding, "decoder.embed_tokens"), prompt);
  const BackboneOutput out = f.model->forward(batch.input, {});
  EXPECT_EQ(out.hidden.size(0), 5);
  EXPECT_EQ(out.layout.rows(), 5);
  EXPECT_TRUE(out.token_rows.equal(at::tensor({2, 3, 4}, at::kLong)));
  EXPECT_TRUE(out.first_rows.equal(at::tensor({2}, at::kLong)));
  EXPECT_TRUE(out.token_states().equal(out.hidden.narrow(0, 2, 3)));
}

// After CLS, in ragged sequences with segment ids: the same as the tokens.
TEST(EmbeddingSite, BertPromptAfterClsIsTheTokens) {
  Fixture f("bert_classify");
  const Parameters& p = f.model->parameters();
  const at::Tensor table =
      p.slot(p.require("bert.embeddings.word_embeddings.weight")).frozen;
  const HfBatch whole = read_hf_inputs(
      {{"input_ids", tokens({1, 11, 12, 5, 6, 2, 11, 12, 7, 0}, 2)},
       {"attention_mask", tokens({1, 1, 1, 1, 1, 1, 1, 1, 1, 0}, 2)},
       {"token_type_ids", tokens({1, 0, 0, 2, 1, 1, 0, 0, 2, 0}, 2)}},
      f.model->config());
  const HfBatch rest =
      read_hf_inputs({{"input_ids", tokens({1, 5, 6, 2, 7, 0}, 2)},
                      {"attention_mask", tokens({1, 1, 1, 1, 1, 0}, 2)},
                      {"token_type_ids", tokens({1, 2, 1, 1, 2, 0}, 2)}},
                     f.model->config());
  const BackboneOutput expected = f.model->forward(whole.input, {});
  auto prompt = std::make_shared<Prompt>();
  prompt->table = table.narrow(0, 11, 2);
  prompt->at = 1;
  f.model->attach(f.site(SiteKind::kEmbedding, "bert.embeddings"), prompt);
  const BackboneOutput out = f.model->forward(rest.input, {});
  EXPECT_TRUE(golden_close("hidden", out.hidden, expected.hidden, 2e-6));
  EXPECT_TRUE(out.token_rows.equal(at::tensor({0, 3, 4, 5, 8}, at::kLong)));
  EXPECT_TRUE(out.first_rows.equal(at::tensor({0, 5}, at::kLong)));
  EXPECT_TRUE(golden_close("pooled", f.model->pooled(out, {}),
                           f.model->pooled(expected, {}), 2e-6));
}

struct Replace : TapAttachment {
  at::Tensor input, output;
  bool drop = false;
  at::Tensor layer_input(const at::Tensor& h, const ForwardContext&) override {
    input = h;
    return h;
  }
  at::Tensor layer_output(const at::Tensor& h, const ForwardContext&) override {
    output = h;
    return drop ? input : h;
  }
};

TEST(TapSite, ReadsAndReplacesLayers) {
  Fixture f("bert_bare");
  const at::Tensor plain = f.hidden();
  auto first = std::make_shared<Replace>();
  auto second = std::make_shared<Replace>();
  f.model->attach(f.site(SiteKind::kTap, "bert.encoder.layer.0"), first);
  f.model->attach(f.site(SiteKind::kTap, "bert.encoder.layer.1"), second);
  EXPECT_TRUE(f.hidden().equal(plain));
  EXPECT_TRUE(second->input.equal(first->output));
  EXPECT_TRUE(second->output.equal(plain));
  second->drop = true;
  EXPECT_TRUE(f.hidden().equal(first->output));
}

TEST(Sites, AttachingToAnotherKindIsABug) {
  Fixture f("bert_bare");
  EXPECT_THROW(f.model->attach(f.site(SiteKind::kTap, "bert.encoder.layer.0"),
                               std::make_shared<Scales>()),
               InternalError);
  EXPECT_THROW(f.model->attach(99999, std::make_shared<Scales>()),
               InternalError);
}

// A leaf in the last layer: what lies below it records no graph.
TEST(Sites, NothingBelowTheLowestTrainableSiteRecordsAGraph) {
  Fixture f("t5_tied");
  auto lower = std::make_shared<Replace>();
  auto upper = std::make_shared<Replace>();
  f.model->attach(f.site(SiteKind::kTap, "decoder.block.0"), lower);
  f.model->attach(f.site(SiteKind::kTap, "decoder.block.1"), upper);
  auto lora = std::make_shared<Scales>();
  lora->a = numbers("a", {2, 20}).set_requires_grad(true);
  lora->b = numbers("b", {21, 2}).set_requires_grad(true);
  f.model->attach(
      f.site(SiteKind::kLinear, "decoder.block.1.layer.0.SelfAttention.q"),
      lora);
  f.hidden();
  EXPECT_FALSE(lower->output.requires_grad());
  EXPECT_FALSE(upper->input.requires_grad());
  EXPECT_TRUE(upper->output.requires_grad());
}

ForwardContext training(std::uint64_t step) {
  ForwardContext ctx;
  ctx.training = true;
  ctx.seed = 5;
  ctx.step = step;
  return ctx;
}

// Dropout belongs to sample, site, position and feature: a sequence alone
// drops what it drops within a batch, and a pass drawn again is the same.
TEST(Sites, DropoutIsOfTheSampleAlone) {
  for (const char* name : {"bert_bare", "gpt2_lm", "t5_gated"}) {
    Fixture f(name);
    const bool t5 = f.model->config().architecture == "t5";
    const at::Tensor all = f.hidden(training(1));
    EXPECT_TRUE(f.hidden(training(1)).equal(all));
    EXPECT_FALSE(golden_close(name, f.hidden(training(2)), all, 1e-2));
    EXPECT_FALSE(golden_close(name, f.hidden(), all, 1e-2));
    const HfCells& cells = t5 ? f.batch.decoder : f.batch.encoder;
    const at::Tensor padded = cells.pad(all);
    NamedTensors one;
    for (const char* input :
         {"input_ids", "attention_mask", "token_type_ids", "labels"}) {
      if (!f.golden.contains(input)) continue;
      one.emplace_back(input, f.golden.tensor(input).narrow(0, 2, 1));
    }
    HfBatch alone = read_hf_inputs(one, f.model->config());
    const auto rename = [](Layout& layout) { layout.samples.fill_(2); };
    rename(alone.input.encoder.layout);
    if (t5) rename(alone.input.decoder.layout);
    const at::Tensor hidden = f.model->forward(alone.input, training(1)).hidden;
    EXPECT_TRUE(
        golden_close(name, (t5 ? alone.decoder : alone.encoder).pad(hidden)[0],
                     padded[2], 5e-6));
  }
}

TEST(RandomBackbone, ValuesFollowSeedNameAndKind) {
  const std::string config = golden_path("t5_gated/config.json");
  const auto a = random_backbone(config, 1);
  EXPECT_EQ(random_backbone(config, 1)->parameters().identity(),
            a->parameters().identity());
  EXPECT_NE(random_backbone(config, 2)->parameters().identity(),
            a->parameters().identity());
  const Parameters& p = a->parameters();
  const auto std_of = [&](const char* name) {
    return p.slot(p.require(name)).frozen.std().item<double>();
  };
  const std::string block = "encoder.block.0.layer.";
  EXPECT_NEAR(std_of("shared.weight"), 1, 0.1);
  EXPECT_NEAR(std_of("lm_head.weight"), 1, 0.1);
  EXPECT_NEAR(std_of((block + "0.SelfAttention.q.weight").c_str()),
              1 / std::sqrt(20.0 * 7), 0.01);
  EXPECT_NEAR(std_of((block + "0.SelfAttention.v.weight").c_str()),
              1 / std::sqrt(20.0), 0.02);
  EXPECT_NEAR(std_of((block + "0.SelfAttention.o.weight").c_str()),
              1 / std::sqrt(21.0), 0.02);
  EXPECT_NEAR(std_of((block + "1.DenseReluDense.wo.weight").c_str()),
              1 / std::sqrt(36.0), 0.02);
  EXPECT_EQ(std_of((block + "1.layer_norm.weight").c_str()), 0);
  EXPECT_EQ(random_backbone(golden_path("t5_tied/config.json"), 1)
                ->parameters()
                .find("lm_head.weight"),
            -1);
  const auto bert = random_backbone(golden_path("bert_classify"), 1);
  EXPECT_GE(bert->find_site(SiteKind::kLinear, "bert.pooler.dense"), 0);
}

}  // namespace
}  // namespace thinwire
