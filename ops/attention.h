// Multi-head attention over ragged batches, with separate query and key
// layouts, so that self-attention, cross-attention, prefixes and packing are
// one call. Rows are never padded, and scores exist only for a strip of
// queries of one head at a time: what backward keeps is q, k, v and one number
// per query and head, from which it computes the weights again (Dao et al.
// 2022, "FlashAttention", sec. 3.1; here a strip spans all keys, so that the
// softmax is the plain one). Dropout is drawn again as well.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

#include "ops/dropout.h"
#include "ops/layout.h"

namespace thinwire {

// H heads of width D; Tq, Tk rows; Lq, Lk longest sequences. All fp32.
struct AttentionInputs {
  at::Tensor q;  // [Tq, H D]
  at::Tensor k;  // [Tk, H D]
  at::Tensor v;  // [Tk, H D]
  const Layout* queries = nullptr;
  const Layout* keys = nullptr;
  std::int64_t heads = 1;
  double scale = 1;  // of the scores; T5: 1, BERT: 1/sqrt(D)
  // A query sees no key whose position is beyond its own. Positions of keys
  // must ascend within a sequence.
  bool causal = false;
  // Added to the scaled scores, the same for all sequences or one per
  // sequence: [H, Lq, Lk] or [B, H, Lq, Lk]; undefined: none. Read only where
  // sequence b has queries and keys.
  at::Tensor bias;
  // Extra keys and values that every query sees, put before the others, with
  // no bias: [B, n, H D] or [n, H D]; undefined: none.
  at::Tensor extra_k, extra_v;
  double dropout = 0;  // of the weights after softmax
  DropoutKey key;
};

// -> [Tq, H D]; a query that sees no key gets zeros. Differentiable in q, k,
// v, bias and the extras, once. Throws UsageError unless 0 <= dropout < 1.
at::Tensor attention(const AttentionInputs& in);

// The same in plain ATen operations, on padded rows: differentiable twice.
// Every query must see a key. attention() calls it where plain_twin() says so.
at::Tensor attention_reference(const AttentionInputs& in);

}  // namespace thinwire
