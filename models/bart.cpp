// BART. Lewis et al. 2020, "BART: Denoising sequence-to-sequence pre-training
// for natural language generation, translation, and comprehension". Post-norm
// blocks with biases, learned positions from row 2 on, a layer norm behind the
// embeddings of either stack; one table for the tokens of both and the output.
// A module per sublayer exists in T5 and BERT alone; BART's sublayers are named
// as AdapterHub names what it puts there.
// T rows, d model width; everything outside attention runs on packed [T, d].
#include <fmt/format.h>

#include <cmath>

#define TORCH_ASSERT_ONLY_METHOD_OPERATORS
#include "models/architectures.h"
#include "models/stacks.h"

namespace thinwire {
namespace {

// All are the same, and older files hold all or any of them.
const std::vector<std::string> kSharedNames{
    "model.shared.weight", "model.encoder.embed_tokens.weight",
    "model.decoder.embed_tokens.weight", "lm_head.weight"};

class Bart : public EncoderDecoder {
 public:
  Bart(const ModelConfig& config, TensorSource& source)
      : EncoderDecoder(config) {
    const std::int64_t d = config_.d_model, v = config_.vocab_size;
    shared_ = parameters_.add(kSharedNames.front(),
                              source.get(kSharedNames, {v, d}, normal()));
    add_stack(source, Stack::kEncoder);
    add_stack(source, Stack::kDecoder);
    lm_head_ = add_head_linear("lm_head", shared_, -1, d, v);
    const std::string bias = "final_logits_bias";
    const at::Tensor saved =
        source.get({bias}, {1, v}, {Init::Kind::kZeros, 0}, false);
    if (saved.defined()) lm_bias_ = parameters_.add_buffer(bias, saved);
  }

 private:
  struct BartStack {
    Embeddings embeddings;
    std::vector<Block> blocks;
  };

  BartStack& parts(Stack stack) {
    return stack == Stack::kEncoder ? encoder_ : decoder_;
  }

  void add_stack(TensorSource& source, Stack stack) {
    const bool encoder = stack == Stack::kEncoder;
    const std::string name = encoder ? "model.encoder" : "model.decoder";
    const std::int64_t layers =
        encoder ? config_.layers : config_.decoder_layers;
    Embeddings& e = parts(stack).embeddings;
    Site embeddings = place(stack, name + ".embed_tokens", Role::kNone, -1);
    embeddings.weight = e.words = shared_;
    e.padding = config_.pad_id;
    e.site = add_other(std::move(embeddings), SiteKind::kEmbedding);
    e.positions =
        add(source, name + ".embed_positions.weight",
            {config_.first_position + config_.max_positions, config_.d_model},
            normal());
    for (int i = 0; i < layers; ++i) {
      add_block(source, stack, fmt::format("{}.layers.{}", name, i), i);
    }
    e.norm = add_layer_norm(
        source, place(stack, name + ".layernorm_embedding", Role::kNone, -1));
    e.dropout = dropout_site(name + ".embed_tokens.dropout");
  }

  void add_block(TensorSource& source, Stack stack, const std::string& name,
                 int i) {
    const bool encoder = stack == Stack::kEncoder;
    const std::int64_t heads = encoder ? config_.heads : config_.decoder_heads,
                       d = config_.d_model,
                       ff = encoder ? config_.d_ff : config_.decoder_d_ff;
    const auto at = [&](const char* module, Role role) {
      return place(stack, name + module, role, i);
    };
    Block b;
    b.tap = add_other(at("", Role::kNone), SiteKind::kTap);
    add_attention(source, b.self, at(".self_attn", Role::kSelfAttention),
                  at(".attention_adapters", Role::kSelfAttention), heads);
    if (!encoder) {
      add_attention(source, b.cross, at(".encoder_attn", Role::kCrossAttention),
                    at(".cross_attention_adapters", Role::kCrossAttention),
                    heads);
    }
    FeedForward& f = b.feed_forward;
    f.in = add_linear(source, at(".fc1", Role::kFeedForward), d, ff);
    f.out = add_linear(source, at(".fc2", Role::kFeedForward), ff, d);
    f.inner_dropout = dropout_site(name + ".fc1.dropout");
    add_sublayer(
        f, at(".output_adapters", Role::kFeedForward),
        add_layer_norm(source, at(".final_layer_norm", Role::kFeedForward)));
    parts(stack).blocks.push_back(b);
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
    a.scale = std::sqrt(static_cast<double>(heads) /
                        static_cast<double>(config_.d_model));
    a.k = projection(".k_proj");
    a.v = projection(".v_proj");
    a.q = projection(".q_proj");
    a.out = projection(".out_proj");
    a.weights_dropout = dropout_site(module.name + ".dropout");
    a.attention = add_other(module, SiteKind::kAttention);
    Site norm = module;
    norm.name += "_layer_norm";
    add_sublayer(a, std::move(sublayer),
                 add_layer_norm(source, std::move(norm)));
  }

  at::Tensor embed_stack(Stack stack, const TokenStream& in,
                         EmbeddedStream& stream, ForwardContext& ctx) override {
    const Embeddings& e = parts(stack).embeddings;
    const at::Tensor x = embed(e, in.tokens, stream, ctx);
    return enter(e, norm(x, e.norm, ctx), config_.dropout, ctx);
  }

  at::Tensor run_stack(Stack stack, at::Tensor hidden, const at::Tensor& memory,
                       const ForwardContext& ctx) override {
    return run_blocks(parts(stack).blocks, {std::move(hidden), memory}, ctx);
  }

  at::Tensor run_block(const Block& b, const BlockInputs& in,
                       const ForwardContext& ctx) override {
    at::Tensor x = attend_post_norm(b.self, in.hidden, {}, ctx);
    if (in.memory.defined()) x = attend_post_norm(b.cross, x, in.memory, ctx);
    const FeedForward& f = b.feed_forward;
    const at::Tensor inner =
        drop(activate(linear(f.in, x, ctx)), config_.activation_dropout,
             f.inner_dropout, ctx);
    return add_and_norm(f, x, linear(f.out, inner, ctx), ctx);
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
