// BERT and RoBERTa. Devlin et al. 2019, "BERT: Pre-training of deep
// bidirectional transformers for language understanding"; Liu et al. 2019,
// "RoBERTa: A robustly optimized BERT pretraining approach": other names,
// positions that begin behind the padding token's, and a first token that goes
// to the head without a pooler. Post-norm blocks.
// T rows, d model width; everything outside attention runs on packed [T, d].
#include <cmath>

#define TORCH_ASSERT_ONLY_METHOD_OPERATORS
#include <ATen/ops/gelu.h>
#include <ATen/ops/zeros.h>

#include "base/error.h"
#include "models/architectures.h"
#include "models/embedded_stream.h"
#include "ops/attention.h"
#include "ops/block_steps.h"
#include "ops/reference.h"

namespace thinwire {
namespace {

struct Norm {
  int weight = -1, bias = -1;
};

struct Block {
  int query = -1, key = -1, value = -1, attention_output = -1;
  int intermediate = -1, output = -1;  // linear sites
  Norm attention_norm, output_norm;
  int attention_sublayer = -1, feed_forward_sublayer = -1;
  int attention = -1, tap = -1;
  std::uint32_t attention_dropout = 0, attention_output_dropout = 0,
                output_dropout = 0;
};

class Bert : public Backbone {
 public:
  Bert(const ModelConfig& config, TensorSource& source)
      : Backbone(config), name_(config.architecture) {
    const std::int64_t d = config_.d_model;
    const std::string e = name_ + ".embeddings";
    words_ =
        add(source, e + ".word_embeddings.weight", {config_.vocab_size, d});
    positions_ = add(source, e + ".position_embeddings.weight",
                     {config_.first_position + config_.max_positions, d});
    types_ = add(source, e + ".token_type_embeddings.weight",
                 {config_.type_vocab, d});
    embeddings_norm_ = add_norm(source, e + ".LayerNorm");
    embeddings_dropout_ = dropout_site(e + ".dropout");
    embeddings_ = add_site({.name = e,
                            .kind = SiteKind::kEmbedding,
                            .stack = Stack::kEncoder,
                            .role = Role::kNone,
                            .layer = -1,
                            .d_in = d,
                            .d_out = d,
                            .weight = words_});
    for (int i = 0; i < config_.layers; ++i) add_block(source, i);
    if (config_.dense_head) return;
    // Checkpoints of masked language models have none.
    const std::string pooler = name_ + ".pooler.dense";
    if (!source.contains(pooler + ".weight") && is_checkpoint(source)) return;
    pooler_ = add_linear(source, pooler, d, d, Role::kPooler, -1);
  }

  BackboneOutput forward(const BackboneInput& in,
                         const ForwardContext& outer) override {
    EmbeddedStream stream(in.encoder.layout);
    ForwardContext ctx = outer;
    ctx.layout = &stream.layout;
    ctx.memory = nullptr;
    at::Tensor h = embed(in.encoder, stream, ctx);
    for (const Block& block : blocks_) {
      h = layer_input(block.tap, std::move(h), ctx);
      h = run_block(
          [this, &block](const std::vector<at::Tensor>& inputs,
                         const ForwardContext& now) {
            return run(block, inputs[0], now);
          },
          {std::move(h)}, ctx);
      h = layer_output(block.tap, std::move(h), ctx);
    }

    BackboneOutput out;
    out.hidden = std::move(h);
    out.token_rows = stream.token_rows();
    out.first_rows = stream.first_rows();
    out.layout = std::move(stream.layout);
    return out;
  }

  BackboneOutput encode(const BackboneInput&, const ForwardContext&) override {
    fail<InternalError>("{} has no encoder apart from forward()", name_);
  }
  BackboneOutput decode(const BackboneOutput&, const BackboneInput&,
                        const ForwardContext&) override {
    fail<InternalError>("{} has no decoder", name_);
  }

  at::Tensor pooled(const BackboneOutput& out,
                    const ForwardContext& outer) override {
    const at::Tensor first =
        out.hidden.index_select(0, beside(out.first_rows, out.hidden));
    if (config_.dense_head) return first;
    if (pooler_ < 0) {
      fail<UsageError>(
          "this checkpoint has no {}.pooler.dense, which classification and "
          "regression read (a masked language model's save leaves it out)",
          name_);
    }
    const Layout layout = pooled_layout(out.layout);
    ForwardContext ctx = outer;
    ctx.layout = &layout;
    return linear(pooler_, first, ctx).tanh();
  }

 private:
  // A source that has not even the word embeddings makes its values up.
  bool is_checkpoint(const TensorSource& source) const {
    return source.contains(name_ + ".embeddings.word_embeddings.weight");
  }

  int add(TensorSource& source, const std::string& name,
          const std::vector<std::int64_t>& shape) {
    return parameters_.add(name, source.get({name}, shape, normal()));
  }
  Init normal() const {
    return {Init::Kind::kNormal, static_cast<float>(config_.initializer_range)};
  }

  Norm add_norm(TensorSource& source, const std::string& name) {
    const auto get = [&](const char* now, const char* before, Init::Kind kind) {
      return parameters_.add(
          name + now, source.get({name + now, name + before}, {config_.d_model},
                                 {kind, 0}));
    };
    return {get(".weight", ".gamma", Init::Kind::kOnes),
            get(".bias", ".beta", Init::Kind::kZeros)};
  }

  int add_linear(TensorSource& source, const std::string& name,
                 std::int64_t d_in, std::int64_t d_out, Role role, int layer) {
    const int weight = parameters_.add_matrix(
        name + ".weight",
        source.matrix({name + ".weight"}, {d_out, d_in}, normal()));
    const int bias = parameters_.add(
        name + ".bias",
        source.get({name + ".bias"}, {d_out}, {Init::Kind::kZeros, 0}));
    return add_site({.name = name,
                     .kind = SiteKind::kLinear,
                     .stack = Stack::kEncoder,
                     .role = role,
                     .layer = layer,
                     .d_in = d_in,
                     .d_out = d_out,
                     .weight = weight,
                     .bias = bias});
  }

  int add_other(const std::string& name, SiteKind kind, Role role, int layer,
                Norm norm = {}) {
    return add_site({.name = name,
                     .kind = kind,
                     .stack = Stack::kEncoder,
                     .role = role,
                     .layer = layer,
                     .d_in = config_.d_model,
                     .d_out = config_.d_model,
                     .norm_weight = norm.weight,
                     .norm_bias = norm.bias});
  }

  void add_block(TensorSource& source, int i) {
    const std::int64_t d = config_.d_model, ff = config_.d_ff;
    const std::string name = fmt::format("{}.encoder.layer.{}", name_, i);
    const std::string attention = name + ".attention";
    constexpr Role kSelf = Role::kSelfAttention, kFF = Role::kFeedForward;
    Block b;
    b.tap = add_other(name, SiteKind::kTap, Role::kNone, i);
    b.attention =
        add_other(attention + ".self", SiteKind::kAttention, kSelf, i);
    b.query = add_linear(source, attention + ".self.query", d, d, kSelf, i);
    b.key = add_linear(source, attention + ".self.key", d, d, kSelf, i);
    b.value = add_linear(source, attention + ".self.value", d, d, kSelf, i);
    b.attention_output =
        add_linear(source, attention + ".output.dense", d, d, kSelf, i);
    b.attention_norm = add_norm(source, attention + ".output.LayerNorm");
    b.attention_sublayer = add_other(attention + ".output", SiteKind::kSublayer,
                                     kSelf, i, b.attention_norm);
    b.intermediate =
        add_linear(source, name + ".intermediate.dense", d, ff, kFF, i);
    b.output = add_linear(source, name + ".output.dense", ff, d, kFF, i);
    b.output_norm = add_norm(source, name + ".output.LayerNorm");
    b.feed_forward_sublayer =
        add_other(name + ".output", SiteKind::kSublayer, kFF, i, b.output_norm);
    b.attention_dropout = dropout_site(attention + ".self.dropout");
    b.attention_output_dropout = dropout_site(attention + ".output.dropout");
    b.output_dropout = dropout_site(name + ".output.dropout");
    blocks_.push_back(b);
  }

  at::Tensor norm(const at::Tensor& x, const Norm& n,
                  const ForwardContext& ctx) const {
    return layer_norm_of(x, n.weight, n.bias, ctx);
  }

  at::Tensor embed(const TokenStream& in, EmbeddedStream& stream,
                   ForwardContext& ctx) {
    at::Tensor x = look_up(words_, in.tokens, ctx, config_.pad_id);
    x = insert_embeddings(embeddings_, std::move(x), stream, ctx);
    x = add_positions(x, positions_, ctx);
    x = x.add(look_up(types_, types_of(in, stream), ctx));
    return drop(norm(x, embeddings_norm_, ctx), config_.dropout,
                embeddings_dropout_, ctx);
  }

  static at::Tensor types_of(const TokenStream& in,
                             const EmbeddedStream& stream) {
    if (!in.types.defined())
      return at::zeros({stream.layout.rows()}, at::kLong);
    const at::Tensor rows = stream.token_rows();
    if (!rows.defined()) return in.types;
    return at::zeros({stream.layout.rows()}, in.types.options())
        .index_copy(0, rows, in.types);
  }

  at::Tensor run(const Block& b, at::Tensor x, const ForwardContext& ctx) {
    x = sublayer(b.attention_sublayer, b.attention_norm, x, attend(b, x, ctx),
                 b.attention_output_dropout, ctx);
    const at::Tensor inner = activate(linear(b.intermediate, x, ctx));
    return sublayer(b.feed_forward_sublayer, b.output_norm, x,
                    linear(b.output, inner, ctx), b.output_dropout, ctx);
  }

  // u: before its dropout.
  at::Tensor sublayer(int site, const Norm& n, const at::Tensor& x,
                      at::Tensor u, std::uint32_t dropout,
                      const ForwardContext& ctx) {
    const double p = ctx.training ? config_.dropout : 0;
    if (at_site(site).sublayer.empty()) {
      const DropoutKey key = ctx.dropout_key(dropout);
      const Parameters::Use weight = parameters_.use(n.weight, ctx),
                            bias = parameters_.use(n.bias, ctx);
      if (weight.watch != nullptr || bias.watch != nullptr) {
        return norm(dropout_add(x, u, p, key, *ctx.layout), n, ctx);
      }
      return dropout_add_layer_norm(x, u, p, key, *ctx.layout, weight.tensor,
                                    bias.tensor, config_.norm_eps);
    }
    u = adapt(site,
              {x, x, drop(u, p, dropout, ctx),
               [&](const at::Tensor& sum) { return norm(sum, n, ctx); }},
              ctx);
    return norm(x.add(u), n, ctx);
  }

  at::Tensor attend(const Block& b, const at::Tensor& x,
                    const ForwardContext& ctx) {
    AttentionInputs in;
    in.q = linear(b.query, x, ctx);
    in.k = linear(b.key, x, ctx);
    in.v = linear(b.value, x, ctx);
    in.queries = in.keys = ctx.layout;
    in.heads = config_.heads;
    in.scale = 1 / std::sqrt(static_cast<double>(config_.d_kv));
    std::tie(in.extra_k, in.extra_v) = extra_keys_values(b.attention, ctx);
    if (ctx.training) in.dropout = config_.attention_dropout;
    in.key = ctx.dropout_key(b.attention_dropout);
    return linear(b.attention_output, attention(in), ctx);
  }

  at::Tensor activate(const at::Tensor& x) const {
    if (config_.activation == "relu") return x.relu();
    return at::gelu(x, config_.activation == "gelu" ? "none" : "tanh");
  }

  std::string name_;  // of the model in its tensors' names
  int words_ = -1, positions_ = -1, types_ = -1;
  Norm embeddings_norm_;
  int embeddings_ = -1, pooler_ = -1;
  std::uint32_t embeddings_dropout_ = 0;
  std::vector<Block> blocks_;
};

}  // namespace

std::unique_ptr<Backbone> make_bert(const ModelConfig& config,
                                    TensorSource& source) {
  return std::make_unique<Bert>(config, source);
}

}  // namespace thinwire
