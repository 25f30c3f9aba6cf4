// What architectures are put together from: blocks of attention and
// feed-forward sublayers along a stream of embeddings, and the pass through
// them. An architecture adds its tensors and sites in its own order, under
// HF's names, and says what its stacks and blocks compute. Internal to models/.
// T rows of the stream that runs (ctx.layout), d model width; hidden states x,
// h and u are [T, d].
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "models/backbone.h"
#include "models/tensor_source.h"

namespace thinwire {

class EmbeddedStream;
struct AttentionInputs;  // ops/attention.h

class Transformer : public Backbone {
 protected:
  using Backbone::Backbone;

  struct Norm {
    int weight = -1, bias = -1;  // slots; no bias: an RMS norm
    int tap = -1;                // site: what it reads and what it gives
  };
  struct Embeddings {
    int site = -1;
    int words = -1, positions = -1;  // slots; no positions: none are learned
    std::int64_t padding = -1;       // the token whose row gets no gradient
    Norm norm;
    std::uint32_t dropout = 0;
  };
  struct Sublayer {
    int site = -1;
    Norm norm;
    std::uint32_t dropout = 0;
  };
  struct Attention : Sublayer {
    int attention = -1;  // site
    // Linear sites; without k and v, q is all three (Site::fused).
    int q = -1, k = -1, v = -1, out = -1;
    std::int64_t heads = 1;
    double scale = 1;  // of the scores
    std::uint32_t weights_dropout = 0;
  };
  struct FeedForward : Sublayer {
    int in = -1, gate = -1, out = -1;  // linear sites
    std::uint32_t inner_dropout = 0;
  };
  struct Block {
    int tap = -1;
    Attention self, cross;  // cross: of decoders that have an encoder
    FeedForward feed_forward;
  };

  // Of matrices that are made up: initializer_range times `by`.
  Init normal(double by = 1) const;
  int add(TensorSource& source, const std::string& name,
          const std::vector<std::int64_t>& shape, const Init& init);
  // NAME.weight and NAME.bias, or .gamma and .beta as old files have them; a
  // tap that has their slots stands at NAME.
  Norm add_layer_norm(TensorSource& source, Site site);
  Norm add_rms_norm(TensorSource& source, Site site);
  // What add_linear(), add_other(), add_sublayer() and norms begin from.
  Site place(Stack stack, std::string name, Role role, int layer) const;
  struct LinearOptions {
    double by = 1;  // of normal()
    bool bias = true;
    WeightAxes axes = WeightAxes::kOutIn;
    int fused = 1;  // Site::fused
  };
  // Both return the site's number.
  int add_linear(TensorSource& source, Site site, std::int64_t d_in,
                 std::int64_t d_out, const LinearOptions& options);
  int add_linear(TensorSource& source, Site site, std::int64_t d_in,
                 std::int64_t d_out) {
    return add_linear(source, std::move(site), d_in, d_out, LinearOptions());
  }
  int add_other(Site site, SiteKind kind);
  void add_sublayer(Sublayer& s, Site site, const Norm& norm);

  // What run_stack() begins with: embeddings of `in` and of what attachments
  // insert; stream and ctx.layout begin as in.layout.
  virtual at::Tensor embed_stack(Stack stack, const TokenStream& in,
                                 EmbeddedStream& stream,
                                 ForwardContext& ctx) = 0;
  BackboneOutput pass(Stack stack, const TokenStream& in,
                      const BackboneOutput* memory,
                      const ForwardContext& outer);

  // What a block reads: every tensor with a graph.
  struct BlockInputs {
    at::Tensor hidden;
    at::Tensor memory = {};  // [T of the encoder, d], undefined: none
    at::Tensor bias = {};    // of the scores of self-attention; undefined: none
  };
  // A block without its taps.
  virtual at::Tensor run_block(const Block& b, const BlockInputs& in,
                               const ForwardContext& ctx) = 0;
  // All of them, each with its taps; if ctx.checkpoint_blocks their activations
  // are computed again in backward.
  at::Tensor run_blocks(const std::vector<Block>& blocks, BlockInputs in,
                        const ForwardContext& ctx);

  // Words and what attachments insert, at their positions; no norm, no dropout.
  at::Tensor embed(const Embeddings& e, const at::Tensor& tokens,
                   EmbeddedStream& stream, ForwardContext& ctx);
  // The end of embed_stack(): dropout with rate p, and before it the place
  // where a side network reads.
  static at::Tensor enter(const Embeddings& e, at::Tensor x, double p,
                          const ForwardContext& ctx);
  // y[t] = weight[rows[t]], rows of ctx.layout, fp32; `padding` gets no
  // gradient.
  at::Tensor look_up(int weight, const at::Tensor& rows,
                     const ForwardContext& ctx,
                     std::int64_t padding = -1) const;

  at::Tensor norm(const at::Tensor& x, const Norm& n,
                  const ForwardContext& ctx) const;
  // a.out(attention) to x's own rows, which in decoders see none behind them,
  // or to the encoder's, `memory`; with extra keys and values of attachments,
  // and ctx.cache where there is one. bias: of the scores.
  at::Tensor attend(const Attention& a, const at::Tensor& x,
                    const at::Tensor& memory, const at::Tensor& bias,
                    const ForwardContext& ctx);
  at::Tensor activate(const at::Tensor& x) const;  // of feed-forwards
  // Dropout of x if the pass is a training one.
  static at::Tensor drop(const at::Tensor& x, double p, std::uint32_t site,
                         const ForwardContext& ctx) {
    if (!ctx.training || p == 0) return x;
    return dropout(x, p, ctx.dropout_key(site), *ctx.layout);
  }

  // The end of a sublayer that computed u, with what is attached there.
  // Pre-norm: x + dropout(u); input: what the sublayer read.
  at::Tensor add_residual(const Sublayer& s, const at::Tensor& x,
                          at::Tensor input, at::Tensor u,
                          const ForwardContext& ctx);
  // Post-norm: norm(x + dropout(u)); x is also what the sublayer read.
  at::Tensor add_and_norm(const Sublayer& s, const at::Tensor& x, at::Tensor u,
                          const ForwardContext& ctx);
  // Sublayers of attention as a whole, from x to x. memory: as in attend().
  at::Tensor attend_pre_norm(const Attention& a, const at::Tensor& x,
                             const at::Tensor& memory, const at::Tensor& bias,
                             const ForwardContext& ctx) {
    const at::Tensor input = norm(x, a.norm, ctx);
    return add_residual(a, x, input, attend(a, input, memory, bias, ctx), ctx);
  }
  at::Tensor attend_post_norm(const Attention& a, const at::Tensor& x,
                              const at::Tensor& memory,
                              const ForwardContext& ctx) {
    return add_and_norm(a, x, attend(a, x, memory, {}, ctx), ctx);
  }

 private:
  at::Tensor run_or_checkpoint(const Block& b, BlockInputs in,
                               const ForwardContext& ctx);
  Norm add_norm(Site site, int weight, int bias);
  at::Tensor layer_norm_of(const at::Tensor& x, const Norm& n,
                           const ForwardContext& ctx) const;
  at::Tensor rms_norm_of(const at::Tensor& x, int weight,
                         const ForwardContext& ctx) const;
  // The residual branch of a sublayer site: returns the adapted u.
  at::Tensor adapt(int site, SublayerState state, const ForwardContext& ctx);
  // x plus the rows of `table` at the positions of ctx.layout. Throws
  // UsageError where a sequence is longer than the model takes.
  at::Tensor add_positions(const at::Tensor& x, int table,
                           const ForwardContext& ctx) const;
  // Inserts what an embedding site's attachments bring; keeps `stream` and
  // ctx.layout in step. With ctx.cache this begins the pass there: positions
  // hold from here on.
  at::Tensor insert_embeddings(int site, at::Tensor embeddings,
                               EmbeddedStream& stream, ForwardContext& ctx);
  // Of all attachments of an attention site; undefined without any. With
  // ctx.cache they are made once.
  std::pair<at::Tensor, at::Tensor> extra_keys_values(
      int site, const ForwardContext& ctx);
  void own_keys_values(const Attention& a, const at::Tensor& x,
                       AttentionInputs& in, const ForwardContext& ctx);
  void memory_keys_values(const Attention& a, const at::Tensor& memory,
                          AttentionInputs& in, const ForwardContext& ctx);
};

}  // namespace thinwire
