// T5 1.0 and 1.1. Raffel et al. 2020, "Exploring the limits of transfer
// learning with a unified text-to-text transformer"; 1.1: Shazeer 2020, "GLU
// variants improve transformer". Pre-norm blocks, no biases, RMS norms.
// T rows, d model width; everything outside attention runs on packed [T, d].
#include <fmt/format.h>

#include <cmath>

#define TORCH_ASSERT_ONLY_METHOD_OPERATORS
#include "models/architectures.h"
#include "models/kv_cache.h"
#include "models/relative_bias.h"
#include "models/stacks.h"
#include "ops/block_steps.h"

namespace thinwire {
namespace {

const std::vector<std::string> kSharedNames{"shared.weight",
                                            "encoder.embed_tokens.weight",
                                            "decoder.embed_tokens.weight"};

class T5 : public EncoderDecoder {
 public:
  T5(const ModelConfig& config, TensorSource& source)
      : EncoderDecoder(config),
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

 private:
  struct T5Stack {
    T5Stack(Stack stack, const ModelConfig& config)
        : which(stack),
          buckets(config.relative_buckets, config.relative_max_distance,
                  /*bidirectional=*/stack == Stack::kEncoder) {}

    Stack which;
    RelativeBuckets buckets;
    int relative_bias = -1;  // slot
    Embeddings embeddings;
    std::vector<Block> blocks;
    Norm final_norm;
    std::uint32_t final_dropout = 0;
  };

  void add_stack(TensorSource& source, T5Stack& stack, const std::string& name,
                 std::int64_t layers) {
    Embeddings& e = stack.embeddings;
    Site embeddings =
        place(stack.which, name + ".embed_tokens", Role::kNone, -1);
    embeddings.weight = e.words = shared_;
    e.site = add_other(std::move(embeddings), SiteKind::kEmbedding);
    e.dropout = dropout_site(name + ".embed_tokens.dropout");
    for (int i = 0; i < layers; ++i) {
      add_block(source, stack, fmt::format("{}.block.{}", name, i), i);
    }
    stack.final_norm = add_rms_norm(
        source,
        place(stack.which, name + ".final_layer_norm", Role::kNone, -1));
    stack.final_dropout = dropout_site(name + ".final_layer_norm.dropout");
  }

  void add_block(TensorSource& source, T5Stack& stack, const std::string& name,
                 int i) {
    int n = 0;
    const auto next = [&](Role role) {
      return place(stack.which, fmt::format("{}.layer.{}", name, n++), role, i);
    };
    Block b;
    b.tap = add_other(place(stack.which, name, Role::kNone, i), SiteKind::kTap);
    add_attention(source, b.self, next(Role::kSelfAttention), ".SelfAttention");
    if (i == 0) {
      stack.relative_bias =
          add(source,
              name + ".layer.0.SelfAttention.relative_attention_bias.weight",
              {config_.relative_buckets, config_.heads},
              normal(std::pow(config_.d_model, -0.5)));
    }
    if (stack.which == Stack::kDecoder) {
      add_attention(source, b.cross, next(Role::kCrossAttention),
                    ".EncDecAttention");
    }
    add_feed_forward(source, b.feed_forward, next(Role::kFeedForward));
    stack.blocks.push_back(b);
  }

  void add_sublayer(TensorSource& source, Sublayer& s, const Site& site) {
    Site norm = site;
    norm.name += ".layer_norm";
    Transformer::add_sublayer(s, site, add_rms_norm(source, std::move(norm)));
  }

  // The initialisation is scaled by one factor, per kind of tensor.
  int add_linear(TensorSource& source, Site site, const char* name,
                 std::int64_t d_in, std::int64_t d_out, double std) {
    site.name += name;
    return Transformer::add_linear(source, std::move(site), d_in, d_out,
                                   {.by = std, .bias = false});
  }

  void add_attention(TensorSource& source, Attention& a, Site site,
                     const char* name) {
    const std::int64_t d = config_.d_model,
                       inner = config_.heads * config_.d_kv;
    add_sublayer(source, a, site);
    site.name += name;
    a.heads = config_.heads;
    a.weights_dropout = dropout_site(site.name + ".dropout");
    a.q = add_linear(source, site, ".q", d, inner,
                     std::pow(d * config_.d_kv, -0.5));
    a.k = add_linear(source, site, ".k", d, inner, std::pow(d, -0.5));
    a.v = add_linear(source, site, ".v", d, inner, std::pow(d, -0.5));
    a.out = add_linear(source, site, ".o", inner, d, std::pow(inner, -0.5));
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
    f.in =
        add_linear(source, site, config_.gated ? ".wi_1" : ".wi", d, ff, std);
    f.out = add_linear(source, site, ".wo", ff, d, std::pow(ff, -0.5));
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

  T5Stack& parts(Stack stack) {
    return stack == Stack::kEncoder ? encoder_ : decoder_;
  }

  at::Tensor embed_stack(Stack stack, const TokenStream& in,
                         EmbeddedStream& stream, ForwardContext& ctx) override {
    const Embeddings& e = parts(stack).embeddings;
    return enter(e, embed(e, in.tokens, stream, ctx), config_.dropout, ctx);
  }

  at::Tensor run_stack(Stack which, at::Tensor hidden, const at::Tensor& memory,
                       const ForwardContext& ctx) override {
    T5Stack& stack = parts(which);
    const at::Tensor bias = relative_bias(stack, *ctx.layout, ctx);
    const at::Tensor h =
        run_blocks(stack.blocks, {std::move(hidden), memory, bias}, ctx);
    return drop(norm(h, stack.final_norm, ctx), config_.dropout,
                stack.final_dropout, ctx);
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

  at::Tensor run_block(const Block& b, const BlockInputs& in,
                       const ForwardContext& ctx) override {
    at::Tensor x = attend_pre_norm(b.self, in.hidden, {}, in.bias, ctx);
    if (in.memory.defined()) {
      x = attend_pre_norm(b.cross, x, in.memory, {}, ctx);
    }
    return feed_forward(b.feed_forward, x, ctx);
  }

  at::Tensor feed_forward(const FeedForward& f, const at::Tensor& x,
                          const ForwardContext& ctx) {
    const at::Tensor input = norm(x, f.norm, ctx);
    at::Tensor u = linear(f.in, input, ctx);
    if (f.gate < 0 && config_.activation == "relu") {
      u = relu_dropout(u, ctx.training ? config_.dropout : 0,
                       ctx.dropout_key(f.inner_dropout), *ctx.layout);
    } else {
      u = f.gate < 0 ? activate(u)
                     : activate(linear(f.gate, input, ctx)).mul(u);
      u = drop(u, config_.dropout, f.inner_dropout, ctx);
    }
    return add_residual(f, x, input, linear(f.out, u, ctx), ctx);
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
