// T5 1.0 and 1.1. Raffel et al. 2020, "Exploring the limits of transfer
// learning with a unified text-to-text transformer"; 1.1: Shazeer 2020, "GLU
// variants improve transformer". Pre-norm blocks, no biases, RMS norms.
// T rows, d model width; everything outside attention runs on packed [T, d].
#include <cmath>

#define TORCH_ASSERT_ONLY_METHOD_OPERATORS
#include "base/error.h"
#include "models/architectures.h"
#include "models/embedded_stream.h"
#include "models/kv_cache.h"
#include "models/relative_bias.h"
#include "ops/attention.h"
#include "ops/block_steps.h"

namespace thinwire {
namespace {

const std::vector<std::string> kSharedNames{"shared.weight",
                                            "encoder.embed_tokens.weight",
                                            "decoder.embed_tokens.weight"};

struct Sublayer {
  int site = -1;
  int norm = -1;  // slot
  std::uint32_t dropout = 0;
};

struct Attention : Sublayer {
  int attention = -1;                  // site
  int q = -1, k = -1, v = -1, o = -1;  // linear sites
  std::uint32_t weights_dropout = 0;
};

struct FeedForward : Sublayer {
  int wi = -1, gate = -1, wo = -1;  // linear sites; gate: 1.1's wi_0
  std::uint32_t inner_dropout = 0;
};

struct Block {
  int tap = -1;
  Attention self, cross;  // cross: decoder only
  FeedForward feed_forward;
};

struct T5Stack {
  T5Stack(Stack stack, const ModelConfig& config)
      : which(stack),
        buckets(config.relative_buckets, config.relative_max_distance,
                /*bidirectional=*/stack == Stack::kEncoder) {}

  Stack which;
  RelativeBuckets buckets;
  int embeddings = -1;  // site
  int relative_bias = -1, final_norm = -1;
  std::uint32_t embeddings_dropout = 0, final_dropout = 0;
  std::vector<Block> blocks;
};

class T5 : public Backbone {
 public:
  T5(const ModelConfig& config, TensorSource& source)
      : Backbone(config),
        encoder_(Stack::kEncoder, config),
        decoder_(Stack::kDecoder, config) {
    shared_ = parameters_.add(
        "shared.weight",
        source.get(kSharedNames, {config_.vocab_size, config_.d_model},
                   normal(1)));
    add_stack(source, encoder_, "encoder", config_.layers);
    add_stack(source, decoder_, "decoder", config_.decoder_layers);
    add_lm_head(source);
  }

  BackboneOutput forward(const BackboneInput& in,
                         const ForwardContext& ctx) override {
    return decode(encode(in, ctx), in, ctx);
  }

  BackboneOutput encode(const BackboneInput& in,
                        const ForwardContext& ctx) override {
    return run(encoder_, in.encoder, nullptr, ctx);
  }

  BackboneOutput decode(const BackboneOutput& memory, const BackboneInput& in,
                        const ForwardContext& ctx) override {
    THINWIRE_ASSERT(ctx.cache != nullptr ||
                        in.decoder.layout.batch() == memory.layout.batch(),
                    "{} sequences to decode, {} encoded",
                    in.decoder.layout.batch(), memory.layout.batch());
    return run(decoder_, in.decoder, &memory, ctx);
  }

  at::Tensor pooled(const BackboneOutput&, const ForwardContext&) override {
    fail<UsageError>(
        "t5 has no pooler; cast the task as text_to_text, or use a bert model");
  }

 private:
  // The initialisation is scaled by one factor, per kind of tensor.
  Init normal(double std) const {
    return {Init::Kind::kNormal,
            static_cast<float>(config_.initializer_range * std)};
  }

  int add_norm(TensorSource& source, const std::string& name) {
    return parameters_.add(
        name, source.get({name}, {config_.d_model}, {Init::Kind::kOnes, 0}));
  }

  int add_linear(TensorSource& source, Site site, const std::string& name,
                 std::int64_t d_in, std::int64_t d_out, double std) {
    site.name += name;
    site.kind = SiteKind::kLinear;
    site.d_in = d_in;
    site.d_out = d_out;
    site.weight = parameters_.add_matrix(
        site.name + ".weight",
        source.matrix({site.name + ".weight"}, {d_out, d_in}, normal(std)));
    return add_site(std::move(site));
  }

  int add_other(Site site, SiteKind kind) {
    site.kind = kind;
    return add_site(std::move(site));
  }

  Site at(const T5Stack& stack, std::string name, Role role, int layer) const {
    return {.name = std::move(name),
            .kind = SiteKind::kTap,
            .stack = stack.which,
            .role = role,
            .layer = layer,
            .d_in = config_.d_model,
            .d_out = config_.d_model};
  }

  void add_stack(TensorSource& source, T5Stack& stack, const std::string& name,
                 std::int64_t layers) {
    Site embeddings = at(stack, name + ".embed_tokens", Role::kNone, -1);
    embeddings.weight = shared_;
    stack.embeddings = add_other(std::move(embeddings), SiteKind::kEmbedding);
    for (int i = 0; i < layers; ++i) {
      const std::string block = fmt::format("{}.block.{}", name, i);
      const std::string layer = block + ".layer.";
      Block b;
      b.tap = add_other(at(stack, block, Role::kNone, i), SiteKind::kTap);
      int n = 0;
      add_attention(
          source, b.self,
          at(stack, layer + std::to_string(n++), Role::kSelfAttention, i),
          ".SelfAttention");
      if (i == 0) {
        const std::string bias =
            layer + "0.SelfAttention.relative_attention_bias.weight";
        stack.relative_bias = parameters_.add(
            bias, source.get({bias}, {config_.relative_buckets, config_.heads},
                             normal(std::pow(config_.d_model, -0.5))));
      }
      if (stack.which == Stack::kDecoder) {
        add_attention(
            source, b.cross,
            at(stack, layer + std::to_string(n++), Role::kCrossAttention, i),
            ".EncDecAttention");
      }
      add_feed_forward(
          source, b.feed_forward,
          at(stack, layer + std::to_string(n), Role::kFeedForward, i));
      stack.blocks.push_back(b);
    }
    stack.final_norm = add_norm(source, name + ".final_layer_norm.weight");
    stack.embeddings_dropout = dropout_site(name + ".embed_tokens.dropout");
    stack.final_dropout = dropout_site(name + ".final_layer_norm.dropout");
  }

  void add_sublayer(TensorSource& source, Sublayer& s, Site site) {
    s.norm = add_norm(source, site.name + ".layer_norm.weight");
    s.dropout = dropout_site(site.name + ".dropout");
    site.norm_weight = s.norm;
    s.site = add_other(std::move(site), SiteKind::kSublayer);
  }

  void add_attention(TensorSource& source, Attention& a, Site site,
                     const std::string& name) {
    const std::int64_t d = config_.d_model,
                       inner = config_.heads * config_.d_kv;
    add_sublayer(source, a, site);
    site.name += name;
    a.weights_dropout = dropout_site(site.name + ".dropout");
    a.q = add_linear(source, site, ".q", d, inner,
                     std::pow(d * config_.d_kv, -0.5));
    a.k = add_linear(source, site, ".k", d, inner, std::pow(d, -0.5));
    a.v = add_linear(source, site, ".v", d, inner, std::pow(d, -0.5));
    a.o = add_linear(source, site, ".o", inner, d, std::pow(inner, -0.5));
    site.d_in = site.d_out = inner;
    a.attention = add_other(std::move(site), SiteKind::kAttention);
  }

  void add_feed_forward(TensorSource& source, FeedForward& f, Site site) {
    const std::int64_t d = config_.d_model, ff = config_.d_ff;
    add_sublayer(source, f, site);
    site.name += ".DenseReluDense";
    f.inner_dropout = dropout_site(site.name + ".dropout");
    const double std = std::pow(d, -0.5);
    if (config_.gated) f.gate = add_linear(source, site, ".wi_0", d, ff, std);
    f.wi =
        add_linear(source, site, config_.gated ? ".wi_1" : ".wi", d, ff, std);
    f.wo = add_linear(source, site, ".wo", ff, d, std::pow(ff, -0.5));
  }

  // A checkpoint that holds an lm_head of its own is untied (1.1), whatever
  // tie_word_embeddings says; without one, the head is the embedding (1.0).
  void add_lm_head(TensorSource& source) {
    const std::string name = "lm_head.weight";
    int slot = shared_;
    if (!config_.scale_decoder_outputs || source.contains(name)) {
      const std::vector<std::int64_t> shape{config_.vocab_size,
                                            config_.d_model};
      if (!source.same(name, kSharedNames, shape)) {
        const at::Tensor own = source.get({name}, shape, normal(1), false);
        if (own.defined()) slot = parameters_.add(name, own);
      }
    }
    if (config_.scale_decoder_outputs) {
      lm_scale_ = std::pow(config_.d_model, -0.5);
    }
    lm_head_ = add_head_linear("lm_head", slot, -1, config_.d_model,
                               config_.vocab_size);
  }

  BackboneOutput run(T5Stack& stack, const TokenStream& in,
                     const BackboneOutput* memory,
                     const ForwardContext& outer) {
    EmbeddedStream stream(in.layout);
    ForwardContext ctx = outer;
    ctx.layout = &stream.layout;
    ctx.memory = memory == nullptr ? nullptr : &memory->layout;
    if (memory == nullptr) ctx.cache = nullptr;
    at::Tensor h = look_up(shared_, in.tokens, ctx);
    h = insert_embeddings(stack.embeddings, std::move(h), stream, ctx);
    h = drop(h, config_.dropout, stack.embeddings_dropout, ctx);

    const at::Tensor bias = relative_bias(stack, stream.layout, ctx);
    for (const Block& b : stack.blocks) {
      h = layer_input(b.tap, std::move(h), ctx);
      // A block's uses of the memory are summed before those of all blocks,
      // whether it is computed again or not.
      const at::Tensor read = memory == nullptr
                                  ? at::Tensor()
                                  : memory->hidden.view_as(memory->hidden);
      h = run_block(
          [this, &b](const std::vector<at::Tensor>& in,
                     const ForwardContext& now) {
            return run(b, in[0], in[1], in[2], now);
          },
          {std::move(h), bias, read}, ctx);
      h = layer_output(b.tap, std::move(h), ctx);
    }
    h = drop(rms_norm_of(h, stack.final_norm, ctx), config_.dropout,
             stack.final_dropout, ctx);
    return output(std::move(h), stream);
  }

  at::Tensor relative_bias(T5Stack& stack, const Layout& layout,
                           const ForwardContext& ctx) const {
    const at::Tensor weight =
        parameters_.get(stack.relative_bias, ctx).to(at::kFloat);
    if (ctx.cache != nullptr) {
      return stack.buckets.bias(weight, layout, ctx.cache->keys());
    }
    const at::Tensor bias = stack.buckets.bias(weight, layout);
    ScoredWeight* scored = parameters_.scored(stack.relative_bias);
    if (scored == nullptr) return bias;
    // One per sequence, so that backward sees each one's own gradient.
    return scored->other(bias.expand({layout.batch(), -1, -1, -1}),
                         [buckets = stack.buckets.gradient(layout)](
                             const at::Tensor& grad) { return buckets(grad); });
  }

  // memory: the encoder's hidden states; undefined in the encoder.
  at::Tensor run(const Block& b, at::Tensor h, const at::Tensor& bias,
                 const at::Tensor& memory, const ForwardContext& ctx) {
    h = attend(b.self, std::move(h), {}, bias, ctx);
    if (memory.defined()) h = attend(b.cross, std::move(h), memory, {}, ctx);
    return feed_forward(b.feed_forward, std::move(h), ctx);
  }

  at::Tensor residual(const Sublayer& s, at::Tensor x, at::Tensor input,
                      at::Tensor u, const ForwardContext& ctx) {
    const double p = ctx.training ? config_.dropout : 0;
    if (at_site(s.site).sublayer.empty()) {
      return dropout_add(x, u, p, ctx.dropout_key(s.dropout), *ctx.layout);
    }
    u = drop(u, p, s.dropout, ctx);
    u = adapt(s.site,
              {x, std::move(input), std::move(u),
               [](const at::Tensor& sum) { return sum; }},
              ctx);
    return x.add(u);
  }

  at::Tensor attend(const Attention& a, at::Tensor x, const at::Tensor& memory,
                    const at::Tensor& bias, const ForwardContext& ctx) {
    const at::Tensor input = rms_norm_of(x, a.norm, ctx);
    AttentionInputs in;
    in.queries = in.keys = ctx.layout;
    in.heads = config_.heads;
    in.bias = bias;
    in.q = linear(a.q, input, ctx);
    std::tie(in.extra_k, in.extra_v) = extra_keys_values(a.attention, ctx);
    if (!memory.defined()) {
      in.causal = ctx.memory != nullptr;  // the decoder's own rows
      in.k = linear(a.k, input, ctx);
      in.v = linear(a.v, input, ctx);
      if (ctx.cache != nullptr) ctx.cache->attend_self(a.attention, in);
    } else {
      in.keys = ctx.memory;
      const auto project = [&] {
        // Keys and values have the encoder's rows; so must what attachments
        // see.
        ForwardContext rows = ctx;
        rows.layout = ctx.memory;
        in.k = linear(a.k, memory, rows);
        in.v = linear(a.v, memory, rows);
      };
      if (ctx.cache == nullptr) {
        project();
      } else {
        ctx.cache->attend_inputs(a.attention, in, project);
      }
    }
    if (ctx.training) in.dropout = config_.attention_dropout;
    in.key = ctx.dropout_key(a.weights_dropout);
    return residual(a, std::move(x), input, linear(a.o, attention(in), ctx),
                    ctx);
  }

  at::Tensor feed_forward(const FeedForward& f, at::Tensor x,
                          const ForwardContext& ctx) {
    const at::Tensor input = rms_norm_of(x, f.norm, ctx);
    at::Tensor u = linear(f.wi, input, ctx);
    if (f.gate < 0 && config_.activation == "relu") {
      u = relu_dropout(u, ctx.training ? config_.dropout : 0,
                       ctx.dropout_key(f.inner_dropout), *ctx.layout);
    } else {
      u = f.gate < 0 ? activate(u)
                     : activate(linear(f.gate, input, ctx)).mul(u);
      u = drop(u, config_.dropout, f.inner_dropout, ctx);
    }
    return residual(f, std::move(x), input, linear(f.wo, u, ctx), ctx);
  }

  int shared_ = -1;
  T5Stack encoder_, decoder_;
};

}  // namespace

std::unique_ptr<Backbone> make_t5(const ModelConfig& config,
                                  TensorSource& source) {
  return std::make_unique<T5>(config, source);
}

}  // namespace thinwire
