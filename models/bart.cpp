// BART. Lewis et al. 2020, "BART: Denoising sequence-to-sequence pre-training
// for natural language generation, translation, and comprehension". Post-norm
// blocks with biases, learned positions from row 2 on, a layer norm behind the
// embeddings of either stack; one table for the tokens of both and the output.
// A module per sublayer exists in T5 and BERT alone; BART's sublayers are named
// as AdapterHub names what it puts there.
// T rows, d model width; everything outside attention runs on packed [T, d].
#include <cmath>

#define TORCH_ASSERT_ONLY_METHOD_OPERATORS
#include "base/error.h"
#include "models/architectures.h"
#include "models/embedded_stream.h"
#include "models/kv_cache.h"
#include "models/post_norm.h"
#include "ops/attention.h"

namespace thinwire {
namespace {

// All are the same, and older files hold all or any of them.
const std::vector<std::string> kSharedNames{
    "model.shared.weight", "model.encoder.embed_tokens.weight",
    "model.decoder.embed_tokens.weight", "lm_head.weight"};

struct Sublayer {
  int site = -1;
  Norm norm;
  std::uint32_t dropout = 0;
};

struct Attention : Sublayer {
  int attention = -1;                    // site
  int q = -1, k = -1, v = -1, out = -1;  // linear sites
  std::int64_t heads = 1;
  std::uint32_t weights_dropout = 0;
};

struct FeedForward : Sublayer {
  int fc1 = -1, fc2 = -1;  // linear sites
  std::uint32_t inner_dropout = 0;
};

struct Block {
  int tap = -1;
  Attention self, cross;  // cross: decoder only
  FeedForward feed_forward;
};

struct BartStack {
  BartStack(Stack stack, std::int64_t h, std::int64_t ff)
      : which(stack), heads(h), d_ff(ff) {}

  Stack which;
  std::int64_t heads, d_ff;
  int embeddings = -1;  // site
  int positions = -1;   // slot
  Norm embeddings_norm;
  std::uint32_t embeddings_dropout = 0;
  std::vector<Block> blocks;
};

class Bart : public PostNormBackbone {
 public:
  Bart(const ModelConfig& config, TensorSource& source)
      : PostNormBackbone(config),
        encoder_(Stack::kEncoder, config.heads, config.d_ff),
        decoder_(Stack::kDecoder, config.decoder_heads, config.decoder_d_ff) {
    const std::int64_t d = config_.d_model, v = config_.vocab_size;
    shared_ = parameters_.add(kSharedNames.front(),
                              source.get(kSharedNames, {v, d}, normal()));
    add_stack(source, encoder_, "model.encoder", config_.layers);
    add_stack(source, decoder_, "model.decoder", config_.decoder_layers);
    lm_head_ = add_head_linear("lm_head", shared_, -1, d, v);
    const std::string bias = "final_logits_bias";
    const at::Tensor saved =
        source.get({bias}, {1, v}, {Init::Kind::kZeros, 0}, false);
    if (saved.defined()) lm_bias_ = parameters_.add_buffer(bias, saved);
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
        "bart has no pooler here; cast the task as text_to_text, or use a bert "
        "model");
  }

 private:
  void add_stack(TensorSource& source, BartStack& stack,
                 const std::string& name, std::int64_t layers) {
    const std::int64_t d = config_.d_model;
    Site embeddings =
        place(stack.which, name + ".embed_tokens", Role::kNone, -1);
    embeddings.weight = shared_;
    stack.embeddings = add_other(std::move(embeddings), SiteKind::kEmbedding);
    const std::string positions = name + ".embed_positions.weight";
    stack.positions = parameters_.add(
        positions,
        source.get({positions},
                   {config_.first_position + config_.max_positions, d},
                   normal()));
    for (int i = 0; i < layers; ++i) {
      add_block(source, stack, fmt::format("{}.layers.{}", name, i), i);
    }
    stack.embeddings_norm = add_norm(source, name + ".layernorm_embedding");
    stack.embeddings_dropout = dropout_site(name + ".embed_tokens.dropout");
  }

  void add_block(TensorSource& source, BartStack& stack,
                 const std::string& name, int i) {
    const auto at = [&](const char* module, Role role) {
      return place(stack.which, name + module, role, i);
    };
    Block b;
    b.tap = add_other(at("", Role::kNone), SiteKind::kTap);
    add_attention(source, b.self, at(".self_attn", Role::kSelfAttention),
                  at(".attention_adapters", Role::kSelfAttention), stack.heads);
    if (stack.which == Stack::kDecoder) {
      add_attention(source, b.cross, at(".encoder_attn", Role::kCrossAttention),
                    at(".cross_attention_adapters", Role::kCrossAttention),
                    stack.heads);
    }
    const std::int64_t d = config_.d_model;
    FeedForward& f = b.feed_forward;
    f.fc1 = add_linear(source, at(".fc1", Role::kFeedForward), d, stack.d_ff);
    f.fc2 = add_linear(source, at(".fc2", Role::kFeedForward), stack.d_ff, d);
    f.inner_dropout = dropout_site(name + ".fc1.dropout");
    add_sublayer(source, f, at(".output_adapters", Role::kFeedForward),
                 name + ".final_layer_norm");
    stack.blocks.push_back(b);
  }

  void add_sublayer(TensorSource& source, Sublayer& s, Site site,
                    const std::string& norm) {
    s.norm = add_norm(source, norm);
    s.dropout = dropout_site(site.name + ".dropout");
    s.site = add_other(std::move(site), SiteKind::kSublayer, s.norm);
  }

  // module: of the projections; sublayer: where it ends.
  void add_attention(TensorSource& source, Attention& a, const Site& module,
                     Site sublayer, std::int64_t heads) {
    const auto projection = [&](const char* name) {
      Site site = module;
      site.name += name;
      return add_linear(source, std::move(site), config_.d_model,
                        config_.d_model);
    };
    a.heads = heads;
    a.k = projection(".k_proj");
    a.v = projection(".v_proj");
    a.q = projection(".q_proj");
    a.out = projection(".out_proj");
    a.weights_dropout = dropout_site(module.name + ".dropout");
    a.attention = add_other(module, SiteKind::kAttention);
    add_sublayer(source, a, std::move(sublayer), module.name + "_layer_norm");
  }

  BackboneOutput run(BartStack& stack, const TokenStream& in,
                     const BackboneOutput* memory,
                     const ForwardContext& outer) {
    EmbeddedStream stream(in.layout);
    ForwardContext ctx = outer;
    ctx.layout = &stream.layout;
    ctx.memory = memory == nullptr ? nullptr : &memory->layout;
    if (memory == nullptr) ctx.cache = nullptr;
    at::Tensor h = embed(stack, in, stream, ctx);
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
            return run(b, in[0], in[1], now);
          },
          {std::move(h), read}, ctx);
      h = layer_output(b.tap, std::move(h), ctx);
    }
    return output(std::move(h), stream);
  }

  at::Tensor embed(const BartStack& stack, const TokenStream& in,
                   EmbeddedStream& stream, ForwardContext& ctx) {
    at::Tensor x = look_up(shared_, in.tokens, ctx, config_.pad_id);
    if (config_.embedding_scale != 1) x = x.mul(config_.embedding_scale);
    x = insert_embeddings(stack.embeddings, std::move(x), stream, ctx);
    x = add_positions(x, stack.positions, ctx);
    return drop(norm(x, stack.embeddings_norm, ctx), config_.dropout,
                stack.embeddings_dropout, ctx);
  }

  // memory: the encoder's hidden states; undefined in the encoder.
  at::Tensor run(const Block& b, at::Tensor h, const at::Tensor& memory,
                 const ForwardContext& ctx) {
    h = attend(b.self, h, {}, ctx);
    if (memory.defined()) h = attend(b.cross, h, memory, ctx);
    return feed_forward(b.feed_forward, h, ctx);
  }

  at::Tensor attend(const Attention& a, const at::Tensor& x,
                    const at::Tensor& memory, const ForwardContext& ctx) {
    AttentionInputs in;
    in.queries = in.keys = ctx.layout;
    in.heads = a.heads;
    in.scale = std::sqrt(static_cast<double>(a.heads) /
                         static_cast<double>(config_.d_model));
    in.q = linear(a.q, x, ctx);
    std::tie(in.extra_k, in.extra_v) = extra_keys_values(a.attention, ctx);
    if (!memory.defined()) {
      in.causal = ctx.memory != nullptr;  // the decoder's own rows
      in.k = linear(a.k, x, ctx);
      in.v = linear(a.v, x, ctx);
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
    return add_and_norm(a.site, a.norm, x, linear(a.out, attention(in), ctx),
                        a.dropout, ctx);
  }

  at::Tensor feed_forward(const FeedForward& f, const at::Tensor& x,
                          const ForwardContext& ctx) {
    const at::Tensor inner =
        drop(activate(linear(f.fc1, x, ctx)), config_.activation_dropout,
             f.inner_dropout, ctx);
    return add_and_norm(f.site, f.norm, x, linear(f.fc2, inner, ctx), f.dropout,
                        ctx);
  }

  int shared_ = -1;
  BartStack encoder_, decoder_;
};

}  // namespace

std::unique_ptr<Backbone> make_bart(const ModelConfig& config,
                                    TensorSource& source) {
  return std::make_unique<Bart>(config, source);
}

}  // namespace thinwire
