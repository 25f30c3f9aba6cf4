// Where methods act. A backbone offers sites, named after HF's parameter
// names; a method decorates those it needs and never sees a concrete model.
// d: model width, T rows of the current stream, B sequences.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "ops/dropout.h"
#include "ops/layout.h"
#include "ops/linear.h"

namespace thinwire {

class KvCache;       // models/kv_cache.h
struct StackStates;  // models/side_network.h

// Everything an attachment may depend on besides its inputs. One per stream
// (encoder, decoder), handed to every attachment and parameter source.
struct ForwardContext {
  bool training = false;
  std::uint64_t seed = 0;  // of dropout
  std::uint64_t step = 0;
  const Layout* layout = nullptr;   // rows of the stream that runs now
  const Layout* memory = nullptr;   // the encoder's, in a decoder
  std::vector<std::int32_t> tasks;  // [B] task id per sequence
  // Blocks keep their inputs only; backward computes them again.
  bool checkpoint_blocks = false;
  // A decoder's pass over new rows only, in evaluation mode: what it has read
  // before. Not owned.
  KvCache* cache = nullptr;
  // Where a stack puts what a side network reads of it. Not owned.
  StackStates* states = nullptr;

  DropoutKey dropout_key(std::uint32_t site) const {
    return {seed, step, site};
  }
};

enum class SiteKind { kLinear, kSublayer, kAttention, kEmbedding, kTap };
enum class Stack { kEncoder, kDecoder };
enum class Role {
  kNone,
  kSelfAttention,
  kCrossAttention,
  kFeedForward,
  kPooler,
  kHead
};

struct Site {
  std::string name;  // linear: the module path, e.g.
                     // bert.encoder.layer.0.attention.self.query; others: the
                     // HF module the site stands at
  SiteKind kind;
  Stack stack;
  Role role;
  int layer;                   // within its stack; -1: outside the blocks
  std::int64_t d_in, d_out;    // last dimensions in and out
  // Linear: parameter slots, -1: none; embedding: the table's.
  int weight = -1, bias = -1;
  int norm_weight = -1;        // sublayer: its layer norm's slots
  int norm_bias = -1;
  // Linear: how many projections of equal width lie side by side in d_out; 3:
  // those of queries, keys and values, in this order.
  int fused = 1;
};

// y = scale_out * (W (x * scale_in) + b + bias + sum of paths(x)), x [T, d_in]
// -> y [T, d_out]. What a method does not use stays undefined.
class LinearAttachment {
 public:
  virtual ~LinearAttachment() = default;
  virtual at::Tensor scale_in(const ForwardContext&) { return {}; }   // [d_in]
  virtual at::Tensor scale_out(const ForwardContext&) { return {}; }  // [d_out]
  virtual at::Tensor bias(const ForwardContext&) { return {}; }       // [d_out]
  virtual at::Tensor path(const at::Tensor& x, const ForwardContext&) {
    return {};  // [T, d_out]
  }
  // A path of this form is multiplied along with W, and path() is not asked.
  virtual LowRank low_rank(const ForwardContext&) { return {}; }
  // A path that is a matrix, fp32 [d_out, d_in] however W lies: added to W
  // before x meets it, where one product can be both.
  virtual at::Tensor weight_change(const ForwardContext&) { return {}; }
};

// A sublayer computes u = Dropout(F(norm?(x))) and the residual adds x + u;
// post-norm models then apply `norm` to the sum. adapt() returns the u that is
// used instead. Houlsby: u + f(u). Pfeiffer: u + f(norm(x + u)). Parallel:
// u + s f(input). Several attachments apply in order.
struct SublayerState {
  at::Tensor x;      // [T, d] residual stream
  at::Tensor input;  // [T, d] what the sublayer read (norm(x) if pre-norm)
  at::Tensor u;      // [T, d]
  // Post-norm models: the layer norm that follows; pre-norm: identity.
  std::function<at::Tensor(const at::Tensor&)> norm;
};
class SublayerAttachment {
 public:
  virtual ~SublayerAttachment() = default;
  virtual at::Tensor adapt(const SublayerState& s, const ForwardContext&) = 0;
};

// Extra keys and values seen by every query, before the others, without
// relative bias: each [B, n, H D] or [n, H D].
class AttentionAttachment {
 public:
  virtual ~AttentionAttachment() = default;
  virtual std::pair<at::Tensor, at::Tensor> extra_keys_values(
      const ForwardContext&) = 0;
};

// n vectors put into every sequence's embeddings: [B, n, d] or [n, d], before
// row insert_at() (0: in front, 1: after CLS). The model shifts positions,
// masks, labels, pooling and cross-attention itself. With n = 0 vectors() is
// not asked.
class EmbeddingAttachment {
 public:
  virtual ~EmbeddingAttachment() = default;
  virtual std::int64_t rows() const = 0;
  virtual std::int64_t insert_at() const { return 0; }
  // Positions that stay free in front of each sequence, for what attention sees
  // there and the stream does not hold.
  virtual std::int64_t free_positions() const { return 0; }
  // Pooling reads the sequence's first row, whatever it holds, and no longer
  // its first token.
  virtual bool pools_first_row() const { return false; }
  virtual at::Tensor vectors(const at::Tensor& embeddings,
                             const ForwardContext&) = 0;
};

// Reads or replaces a layer's input or output; returns what goes on.
class TapAttachment {
 public:
  virtual ~TapAttachment() = default;
  virtual at::Tensor layer_input(const at::Tensor& hidden,
                                 const ForwardContext&) {
    return hidden;
  }
  virtual at::Tensor layer_output(const at::Tensor& hidden,
                                  const ForwardContext&) {
    return hidden;
  }
};

}  // namespace thinwire
