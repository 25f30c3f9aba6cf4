// BERT and RoBERTa. Devlin et al. 2019, "BERT: Pre-training of deep
// bidirectional transformers for language understanding"; Liu et al. 2019,
// "RoBERTa: A robustly optimized BERT pretraining approach": other names,
// positions that begin behind the padding token's, and a first token that goes
// to the head without a pooler. Post-norm blocks.
// T rows, d model width; everything outside attention runs on packed [T, d].
#include <cmath>

#define TORCH_ASSERT_ONLY_METHOD_OPERATORS
#include <ATen/ops/zeros.h>

#include "base/error.h"
#include "models/architectures.h"
#include "models/embedded_stream.h"
#include "models/post_norm.h"
#include "ops/attention.h"
#include "ops/reference.h"

namespace thinwire {
namespace {

struct Block {
  int query = -1, key = -1, value = -1, attention_output = -1;
  int intermediate = -1, output = -1;  // linear sites
  Norm attention_norm, output_norm;
  int attention_sublayer = -1, feed_forward_sublayer = -1;
  int attention = -1, tap = -1;
  std::uint32_t attention_dropout = 0, attention_output_dropout = 0,
                output_dropout = 0;
};

class Bert : public PostNormBackbone {
 public:
  Bert(const ModelConfig& config, TensorSource& source)
      : PostNormBackbone(config), name_(config.architecture) {
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
    Site embeddings = at(e, Role::kNone, -1);
    embeddings.weight = words_;
    embeddings_ = add_other(std::move(embeddings), SiteKind::kEmbedding);
    for (int i = 0; i < config_.layers; ++i) add_block(source, i);
    if (config_.dense_head) return;
    // Checkpoints of masked language models have none.
    const std::string pooler = name_ + ".pooler.dense";
    if (!source.contains(pooler + ".weight") && is_checkpoint(source)) return;
    pooler_ = add_linear(source, at(pooler, Role::kPooler, -1), d, d);
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
    return output(std::move(h), stream);
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

  Site at(std::string name, Role role, int layer) const {
    return place(Stack::kEncoder, std::move(name), role, layer);
  }

  void add_block(TensorSource& source, int i) {
    const std::int64_t d = config_.d_model, ff = config_.d_ff;
    const std::string name = fmt::format("{}.encoder.layer.{}", name_, i);
    const std::string attention = name + ".attention";
    const auto self = [&](const char* module) {
      return at(attention + module, Role::kSelfAttention, i);
    };
    const auto feed_forward = [&](const char* module) {
      return at(name + module, Role::kFeedForward, i);
    };
    Block b;
    b.tap = add_other(at(name, Role::kNone, i), SiteKind::kTap);
    b.attention = add_other(self(".self"), SiteKind::kAttention);
    b.query = add_linear(source, self(".self.query"), d, d);
    b.key = add_linear(source, self(".self.key"), d, d);
    b.value = add_linear(source, self(".self.value"), d, d);
    b.attention_output = add_linear(source, self(".output.dense"), d, d);
    b.attention_norm = add_norm(source, attention + ".output.LayerNorm");
    b.attention_sublayer =
        add_other(self(".output"), SiteKind::kSublayer, b.attention_norm);
    b.intermediate =
        add_linear(source, feed_forward(".intermediate.dense"), d, ff);
    b.output = add_linear(source, feed_forward(".output.dense"), ff, d);
    b.output_norm = add_norm(source, name + ".output.LayerNorm");
    b.feed_forward_sublayer =
        add_other(feed_forward(".output"), SiteKind::kSublayer, b.output_norm);
    b.attention_dropout = dropout_site(attention + ".self.dropout");
    b.attention_output_dropout = dropout_site(attention + ".output.dropout");
    b.output_dropout = dropout_site(name + ".output.dropout");
    blocks_.push_back(b);
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
    x = add_and_norm(b.attention_sublayer, b.attention_norm, x,
                     attend(b, x, ctx), b.attention_output_dropout, ctx);
    const at::Tensor inner = activate(linear(b.intermediate, x, ctx));
    return add_and_norm(b.feed_forward_sublayer, b.output_norm, x,
                        linear(b.output, inner, ctx), b.output_dropout, ctx);
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
