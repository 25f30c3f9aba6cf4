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
#include "models/stacks.h"
#include "ops/reference.h"

namespace thinwire {
namespace {

class Bert : public OneStack {
 public:
  Bert(const ModelConfig& config, TensorSource& source)
      : OneStack(config, Stack::kEncoder), name_(config.architecture) {
    const std::int64_t d = config_.d_model;
    const std::string e = name_ + ".embeddings";
    embeddings_.words = add(source, e + ".word_embeddings.weight",
                            {config_.vocab_size, d}, normal());
    embeddings_.padding = config_.pad_id;
    embeddings_.positions =
        add(source, e + ".position_embeddings.weight",
            {config_.first_position + config_.max_positions, d}, normal());
    types_ = add(source, e + ".token_type_embeddings.weight",
                 {config_.type_vocab, d}, normal());
    embeddings_.norm =
        add_layer_norm(source, at(e + ".LayerNorm", Role::kNone, -1));
    embeddings_.dropout = dropout_site(e + ".dropout");
    Site embeddings = at(e, Role::kNone, -1);
    embeddings.weight = embeddings_.words;
    embeddings_.site = add_other(std::move(embeddings), SiteKind::kEmbedding);
    for (int i = 0; i < config_.layers; ++i) add_block(source, i);
    if (config_.dense_head) return;
    // Checkpoints of masked language models have none.
    const std::string pooler = name_ + ".pooler.dense";
    if (!source.contains(pooler + ".weight") && is_checkpoint(source)) return;
    pooler_ = add_linear(source, at(pooler, Role::kPooler, -1), d, d);
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
    Attention& a = b.self;
    a.attention = add_other(self(".self"), SiteKind::kAttention);
    a.q = add_linear(source, self(".self.query"), d, d);
    a.k = add_linear(source, self(".self.key"), d, d);
    a.v = add_linear(source, self(".self.value"), d, d);
    a.out = add_linear(source, self(".output.dense"), d, d);
    a.heads = config_.heads;
    a.scale = 1 / std::sqrt(static_cast<double>(config_.d_kv));
    a.weights_dropout = dropout_site(attention + ".self.dropout");
    add_sublayer(a, self(".output"),
                 add_layer_norm(source, self(".output.LayerNorm")));
    FeedForward& f = b.feed_forward;
    f.in = add_linear(source, feed_forward(".intermediate.dense"), d, ff);
    f.out = add_linear(source, feed_forward(".output.dense"), ff, d);
    add_sublayer(f, feed_forward(".output"),
                 add_layer_norm(source, feed_forward(".output.LayerNorm")));
    blocks_.push_back(b);
  }

  at::Tensor embed_stack(Stack, const TokenStream& in, EmbeddedStream& stream,
                         ForwardContext& ctx) override {
    at::Tensor x = embed(embeddings_, in.tokens, stream, ctx);
    x = x.add(look_up(types_, types_of(in, stream), ctx));
    return enter(embeddings_, norm(x, embeddings_.norm, ctx), config_.dropout,
                 ctx);
  }

  at::Tensor run_stack(Stack, at::Tensor hidden, const at::Tensor&,
                       const ForwardContext& ctx) override {
    return run_blocks(blocks_, {std::move(hidden)}, ctx);
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

  at::Tensor run_block(const Block& b, const BlockInputs& in,
                       const ForwardContext& ctx) override {
    const at::Tensor x = attend_post_norm(b.self, in.hidden, {}, ctx);
    const FeedForward& f = b.feed_forward;
    const at::Tensor inner = activate(linear(f.in, x, ctx));
    return add_and_norm(f, x, linear(f.out, inner, ctx), ctx);
  }

  std::string name_;  // of the model in its tensors' names
  Embeddings embeddings_;
  int types_ = -1;  // slot
  int pooler_ = -1;
  std::vector<Block> blocks_;
};

}  // namespace

std::unique_ptr<Backbone> make_bert(const ModelConfig& config,
                                    TensorSource& source) {
  return std::make_unique<Bert>(config, source);
}

}  // namespace thinwire
