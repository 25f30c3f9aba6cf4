// GPT-2. Radford et al. 2019, "Language models are unsupervised multitask
// learners". One stack of pre-norm blocks with causal attention, learned
// positions, a final norm and an output matrix that is the embedding's.
// Its stream is BackboneInput's `encoder`, its sites are of Stack::kDecoder.
// Positions count from 0 in each packed sequence. Vectors put before a sequence
// take positions of their own and the text's shift; extra keys take none.
// HF keeps the matrices of its blocks [in, out] ("Conv1D"), and so are the
// slots here (models/matrix.h). The query, key and value projections are one,
// c_attn, side by side in this order: a fused site.
// T rows, d model width; everything outside attention runs on packed [T, d].
#include <fmt/format.h>

#include <cmath>

#define TORCH_ASSERT_ONLY_METHOD_OPERATORS
#include <ATen/ops/tensor.h>

#include "models/architectures.h"
#include "models/stacks.h"
#include "ops/reference.h"

namespace thinwire {
namespace {

constexpr char kEmbedding[] = "transformer.wte.weight";

class Gpt2 : public OneStack {
 public:
  Gpt2(const ModelConfig& config, TensorSource& source)
      : OneStack(config, Stack::kDecoder) {
    const std::int64_t d = config_.d_model;
    embeddings_.words =
        add(source, kEmbedding, {config_.vocab_size, d}, normal());
    embeddings_.positions = add(source, "transformer.wpe.weight",
                                {config_.max_positions, d}, normal());
    Site embeddings = at("transformer.wte", Role::kNone, -1);
    embeddings.weight = embeddings_.words;
    embeddings_.site = add_other(std::move(embeddings), SiteKind::kEmbedding);
    embeddings_.dropout = dropout_site("transformer.drop");
    for (int i = 0; i < config_.layers; ++i) add_block(source, i);
    final_norm_ =
        add_layer_norm(source, at("transformer.ln_f", Role::kNone, -1));
    add_lm_head(source);
  }

  at::Tensor pooled(const BackboneOutput& out, const ForwardContext&) override {
    std::vector<std::int64_t> last(out.layout.offsets.begin() + 1,
                                   out.layout.offsets.end());
    for (std::int64_t& row : last) --row;
    return out.hidden.index_select(
        0, beside(at::tensor(last, at::kLong), out.hidden));
  }

 private:
  void add_block(TensorSource& source, int i) {
    const std::int64_t d = config_.d_model, ff = config_.d_ff;
    const std::string name = fmt::format("transformer.h.{}", i);
    const auto self = [&](const char* module) {
      return at(name + ".attn" + module, Role::kSelfAttention, i);
    };
    const auto feed_forward = [&](const char* module) {
      return at(name + ".mlp" + module, Role::kFeedForward, i);
    };
    const LinearOptions first{.axes = WeightAxes::kInOut};
    // Of the matrices that end in the residual stream.
    const LinearOptions last{
        .by = 1 / std::sqrt(2 * static_cast<double>(config_.layers)),
        .axes = WeightAxes::kInOut};
    LinearOptions fused = first;
    fused.fused = 3;
    Block b;
    b.tap = add_other(at(name, Role::kNone, i), SiteKind::kTap);
    add_sublayer(
        b.self, self(""),
        add_layer_norm(source, at(name + ".ln_1", Role::kSelfAttention, i)));
    b.self.q = add_linear(source, self(".c_attn"), d, 3 * d, fused);
    b.self.out = add_linear(source, self(".c_proj"), d, d, last);
    b.self.attention = add_other(self(""), SiteKind::kAttention);
    b.self.heads = config_.heads;
    b.self.scale = 1 / std::sqrt(static_cast<double>(config_.d_kv));
    b.self.weights_dropout = dropout_site(name + ".attn.attn_dropout");
    FeedForward& f = b.feed_forward;
    add_sublayer(
        f, feed_forward(""),
        add_layer_norm(source, at(name + ".ln_2", Role::kFeedForward, i)));
    f.in = add_linear(source, feed_forward(".c_fc"), d, ff, first);
    f.out = add_linear(source, feed_forward(".c_proj"), ff, d, last);
    blocks_.push_back(b);
  }

  // A checkpoint that holds an lm_head of its own is untied, whatever
  // tie_word_embeddings says; without one, the head is the embedding.
  void add_lm_head(TensorSource& source) {
    const std::string name = "lm_head.weight";
    const std::vector<std::int64_t> shape{config_.vocab_size, config_.d_model};
    const bool own = source.contains(name)
                         ? !source.same(name, {kEmbedding}, shape)
                         : !config_.tied_head && !source.contains(kEmbedding);
    const int slot =
        own ? add(source, name, shape, normal()) : embeddings_.words;
    lm_head_ = add_head_linear("lm_head", slot, -1, config_.d_model,
                               config_.vocab_size);
  }

  at::Tensor embed_stack(Stack, const TokenStream& in, EmbeddedStream& stream,
                         ForwardContext& ctx) override {
    return enter(embeddings_, embed(embeddings_, in.tokens, stream, ctx),
                 config_.embedding_dropout, ctx);
  }

  at::Tensor run_stack(Stack, at::Tensor hidden, const at::Tensor&,
                       const ForwardContext& ctx) override {
    return norm(run_blocks(blocks_, {std::move(hidden)}, ctx), final_norm_,
                ctx);
  }

  at::Tensor run_block(const Block& b, const BlockInputs& in,
                       const ForwardContext& ctx) override {
    const at::Tensor x = attend_pre_norm(b.self, in.hidden, {}, {}, ctx);
    const FeedForward& f = b.feed_forward;
    const at::Tensor input = norm(x, f.norm, ctx);
    const at::Tensor u = linear(f.out, activate(linear(f.in, input, ctx)), ctx);
    return add_residual(f, x, input, u, ctx);
  }

  Embeddings embeddings_;
  Norm final_norm_;
  std::vector<Block> blocks_;
};

}  // namespace

std::unique_ptr<Backbone> make_gpt2(const ModelConfig& config,
                                    TensorSource& source) {
  return std::make_unique<Gpt2>(config, source);
}

}  // namespace thinwire
