// Multi-head attention over ragged batches, with separate query and key
// layouts, so that self-attention, cross-attention, prefixes and packing are
// one call.
#pragma once

#include <cstdint>

#include <ATen/core/Tensor.h>

#include "ops/dropout.h"
#include "ops/layout.h"

namespace thinwire {

// H heads of width D; Tq, Tk rows; Lq, Lk longest sequences.
struct AttentionInputs {
  at::Tensor q;  // [Tq, H D]
  at::Tensor k;  // [Tk, H D]
  at::Tensor v;  // [Tk, H D]
  const Layout* queries = nullptr;
  const Layout* keys = nullptr;
  std::int64_t heads = 1;
  double scale = 1;           // of the scores; T5: 1, BERT: 1/sqrt(D)
  // Added to the scaled scores, [B or 1, H or 1, Lq, Lk]: relative bias and
  // mask together, from attention_mask() plus the model's own bias.
  at::Tensor bias;
  // Extra keys and values that every query sees, put before the others, with
  // no bias: [B, n, H D] or [n, H D]; undefined: none.
  at::Tensor extra_k, extra_v;
  double dropout = 0;
  DropoutKey key;
};

// -> [Tq, H D]. Differentiable in q, k, v, bias and the extras.
at::Tensor attention(const AttentionInputs& in);

// 0 where the query may look, the lowest float where it may not (past the end
// of its sequence; with causal, past its own position): [B or 1, 1, Lq, Lk].
// Undefined when nothing is masked.
at::Tensor attention_mask(const Layout& queries, const Layout& keys,
                          bool causal);

}  // namespace thinwire
