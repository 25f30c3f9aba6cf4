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
#include <cmath>

#define TORCH_ASSERT_ONLY_METHOD_OPERATORS
#include <ATen/ops/tensor.h>

#include "base/error.h"
#include "models/architectures.h"
#include "models/embedded_stream.h"
#include "models/kv_cache.h"
#include "ops/attention.h"
#include "ops/block_steps.h"
#include "ops/reference.h"

namespace thinwire {
namespace {

constexpr char kEmbedding[] = "transformer.wte.weight";

struct Sublayer {
  int site = -1;
  int norm_weight = -1, norm_bias = -1;  // slots
  int in = -1, out = -1;                 // linear sites: c_attn or c_fc, c_proj
  std::uint32_t dropout = 0;
};

struct Block {
  int tap = -1, attention = -1;  // sites
  std::uint32_t weights_dropout = 0;
  Sublayer attend, feed_forward;
};

class Gpt2 : public Backbone {
 public:
  Gpt2(const ModelConfig& config, TensorSource& source) : Backbone(config) {
    const std::int64_t d = config_.d_model;
    words_ = add(source, kEmbedding, {config_.vocab_size, d}, normal());
    positions_ = add(source, "transformer.wpe.weight",
                     {config_.max_positions, d}, normal());
    Site embeddings = at("transformer.wte", SiteKind::kEmbedding, -1);
    embeddings.weight = words_;
    embeddings_ = add_site(std::move(embeddings));
    embeddings_dropout_ = dropout_site("transformer.drop");
    for (int i = 0; i < config_.layers; ++i) add_block(source, i);
    std::tie(norm_weight_, norm_bias_) = add_norm(source, "transformer.ln_f");
    add_lm_head(source);
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
    return output(layer_norm_of(h, norm_weight_, norm_bias_, ctx), stream);
  }

  BackboneOutput encode(const BackboneInput&, const ForwardContext&) override {
    fail<InternalError>("gpt2 has no encoder");
  }
  BackboneOutput decode(const BackboneOutput&, const BackboneInput&,
                        const ForwardContext&) override {
    fail<InternalError>("gpt2 has no decoder apart from forward()");
  }

  at::Tensor pooled(const BackboneOutput& out, const ForwardContext&) override {
    std::vector<std::int64_t> last(out.layout.offsets.begin() + 1,
                                   out.layout.offsets.end());
    for (std::int64_t& row : last) --row;
    return out.hidden.index_select(
        0, beside(at::tensor(last, at::kLong), out.hidden));
  }

 private:
  // by: 1 / sqrt(2 L) of the matrices that end in the residual stream.
  Init normal(double by = 1) const {
    return {Init::Kind::kNormal,
            static_cast<float>(config_.initializer_range * by)};
  }

  int add(TensorSource& source, const std::string& name,
          const std::vector<std::int64_t>& shape, const Init& init) {
    return parameters_.add(name, source.get({name}, shape, init));
  }

  std::pair<int, int> add_norm(TensorSource& source, const std::string& name) {
    const std::vector<std::int64_t> shape{config_.d_model};
    return {add(source, name + ".weight", shape, {Init::Kind::kOnes, 0}),
            add(source, name + ".bias", shape, {Init::Kind::kZeros, 0})};
  }

  Site at(std::string name, SiteKind kind, int layer,
          Role role = Role::kNone) const {
    return {.name = std::move(name),
            .kind = kind,
            .stack = Stack::kDecoder,
            .role = role,
            .layer = layer,
            .d_in = config_.d_model,
            .d_out = config_.d_model};
  }

  int add_linear(TensorSource& source, Site site, std::int64_t d_in,
                 std::int64_t d_out, const Init& init, int fused = 1) {
    site.kind = SiteKind::kLinear;
    site.d_in = d_in;
    site.d_out = d_out;
    site.fused = fused;
    site.weight = parameters_.add_matrix(
        site.name + ".weight",
        source.matrix({site.name + ".weight"}, {d_in, d_out}, init,
                      WeightAxes::kInOut));
    site.bias =
        add(source, site.name + ".bias", {d_out}, {Init::Kind::kZeros, 0});
    return add_site(std::move(site));
  }

  void add_sublayer(Sublayer& s, const std::string& name, Role role, int layer,
                    const std::pair<int, int>& norm) {
    std::tie(s.norm_weight, s.norm_bias) = norm;
    s.dropout = dropout_site(name + ".dropout");
    Site site = at(name, SiteKind::kSublayer, layer, role);
    site.norm_weight = s.norm_weight;
    site.norm_bias = s.norm_bias;
    s.site = add_site(std::move(site));
  }

  void add_block(TensorSource& source, int i) {
    const std::int64_t d = config_.d_model, ff = config_.d_ff;
    const std::string name = fmt::format("transformer.h.{}", i);
    const std::string attn = name + ".attn", mlp = name + ".mlp";
    const Init last =
        normal(1 / std::sqrt(2 * static_cast<double>(config_.layers)));
    const auto linear_at = [&](const std::string& path, Role role) {
      return at(path, SiteKind::kLinear, i, role);
    };
    constexpr Role kSelf = Role::kSelfAttention, kFF = Role::kFeedForward;
    Block b;
    b.tap = add_site(at(name, SiteKind::kTap, i));
    add_sublayer(b.attend, attn, kSelf, i, add_norm(source, name + ".ln_1"));
    b.attend.in = add_linear(source, linear_at(attn + ".c_attn", kSelf), d,
                             3 * d, normal(), /*fused=*/3);
    b.attend.out =
        add_linear(source, linear_at(attn + ".c_proj", kSelf), d, d, last);
    b.attention = add_site(at(attn, SiteKind::kAttention, i, kSelf));
    b.weights_dropout = dropout_site(attn + ".attn_dropout");
    add_sublayer(b.feed_forward, mlp, kFF, i, add_norm(source, name + ".ln_2"));
    b.feed_forward.in =
        add_linear(source, linear_at(mlp + ".c_fc", kFF), d, ff, normal());
    b.feed_forward.out =
        add_linear(source, linear_at(mlp + ".c_proj", kFF), ff, d, last);
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
    const int slot = own ? add(source, name, shape, normal()) : words_;
    lm_head_ = add_head_linear("lm_head", slot, -1, config_.d_model,
                               config_.vocab_size);
  }

  at::Tensor embed(const TokenStream& in, EmbeddedStream& stream,
                   ForwardContext& ctx) {
    at::Tensor x = look_up(words_, in.tokens, ctx);
    x = insert_embeddings(embeddings_, std::move(x), stream, ctx);
    x = add_positions(x, positions_, ctx);
    return drop(x, config_.embedding_dropout, embeddings_dropout_, ctx);
  }

  at::Tensor run(const Block& b, at::Tensor x, const ForwardContext& ctx) {
    x = attend(b, std::move(x), ctx);
    const Sublayer& f = b.feed_forward;
    const at::Tensor input = norm(f, x, ctx);
    const at::Tensor u = linear(f.out, activate(linear(f.in, input, ctx)), ctx);
    return residual(f, std::move(x), input, u, ctx);
  }

  at::Tensor norm(const Sublayer& s, const at::Tensor& x,
                  const ForwardContext& ctx) const {
    return layer_norm_of(x, s.norm_weight, s.norm_bias, ctx);
  }

  at::Tensor residual(const Sublayer& s, at::Tensor x, at::Tensor input,
                      at::Tensor u, const ForwardContext& ctx) {
    const double p = ctx.training ? config_.dropout : 0;
    if (at_site(s.site).sublayer.empty()) {
      return dropout_add(x, u, p, ctx.dropout_key(s.dropout), *ctx.layout);
    }
    u = adapt(s.site,
              {x, std::move(input), drop(u, p, s.dropout, ctx),
               [](const at::Tensor& sum) { return sum; }},
              ctx);
    return x.add(u);
  }

  at::Tensor attend(const Block& b, at::Tensor x, const ForwardContext& ctx) {
    const at::Tensor input = norm(b.attend, x, ctx);
    AttentionInputs in;
    in.queries = in.keys = ctx.layout;
    const std::vector<at::Tensor> qkv =
        linear(b.attend.in, input, ctx).split(config_.d_model, 1);
    in.q = qkv[0];
    in.k = qkv[1];
    in.v = qkv[2];
    in.causal = true;
    in.heads = config_.heads;
    in.scale = 1 / std::sqrt(static_cast<double>(config_.d_kv));
    std::tie(in.extra_k, in.extra_v) = extra_keys_values(b.attention, ctx);
    if (ctx.cache != nullptr) ctx.cache->attend_self(b.attention, in);
    if (ctx.training) in.dropout = config_.attention_dropout;
    in.key = ctx.dropout_key(b.weights_dropout);
    return residual(b.attend, std::move(x), input,
                    linear(b.attend.out, attention(in), ctx), ctx);
  }

  int words_ = -1, positions_ = -1, embeddings_ = -1;
  int norm_weight_ = -1, norm_bias_ = -1;  // ln_f
  std::uint32_t embeddings_dropout_ = 0;
  std::vector<Block> blocks_;
};

}  // namespace

std::unique_ptr<Backbone> make_gpt2(const ModelConfig& config,
                                    TensorSource& source) {
  return std::make_unique<Gpt2>(config, source);
}

}  // namespace thinwire
