#define TORCH_ASSERT_ONLY_METHOD_OPERATORS
#include <ATen/ops/bmm.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/constant_pad_nd.h>
#include <ATen/ops/full.h>
#include <ATen/ops/softmax.h>
#include <ATen/ops/zeros.h>

#include <limits>

#include "ops/attention.h"
#include "ops/reference.h"

namespace thinwire {
namespace {

// [B, L, H D] -> [B H, L, D].
at::Tensor split_heads(const at::Tensor& x, std::int64_t heads) {
  const std::int64_t batch = x.size(0), length = x.size(1);
  return x.view({batch, length, heads, x.size(2) / heads})
      .transpose(1, 2)
      .reshape({batch * heads, length, x.size(2) / heads});
}

at::Tensor put_in_front(const at::Tensor& extra, const at::Tensor& x) {
  if (extra.dim() == 3) return at::cat({extra, x}, 1);
  return at::cat(
      {extra.unsqueeze(0).expand({x.size(0), extra.size(0), x.size(2)}), x}, 1);
}

// int64 [B, L]: positions in padded form, `none` where there is no row.
at::Tensor padded_positions(const Layout& layout, std::int64_t none) {
  const std::int64_t batch = layout.batch(), length = layout.max_length;
  if (layout.uniform) return layout.positions.view({batch, length});
  return at::full({batch * length}, none, layout.positions.options())
      .index_copy_(0, layout.padded_rows, layout.positions)
      .view({batch, length});
}

// 0 where the query may look, the lowest float where it may not (past the end
// of its sequence; causal: past its own position): [B, 1, Lq or 1, Lk], beside
// `like`; undefined where every query may look everywhere. Queries that do not
// exist look at whatever does.
at::Tensor mask_of(const Layout& queries, const Layout& keys, bool causal,
                   const at::Tensor& like) {
  if (keys.uniform && !causal) return {};
  const std::int64_t batch = keys.batch(), columns = keys.max_length;
  // Past the end of a sequence, keys lie behind every query.
  constexpr std::int64_t kLast = std::numeric_limits<std::int64_t>::max();
  at::Tensor hidden;
  const at::Tensor key =
      padded_positions(keys, kLast).view({batch, 1, 1, columns});
  if (causal) {
    const at::Tensor query = padded_positions(queries, kLast - 1)
                                 .view({batch, 1, queries.max_length, 1});
    hidden = beside(key, like).gt(beside(query, like));
  } else {
    hidden = beside(key, like).eq(kLast);
  }
  return at::zeros(hidden.sizes(), like.options().requires_grad(false))
      .masked_fill_(hidden, std::numeric_limits<float>::lowest());
}

}  // namespace

at::Tensor attention_reference(const AttentionInputs& in) {
  const Layout& queries = *in.queries;
  const Layout& keys = *in.keys;
  const std::int64_t batch = queries.batch(), width = in.q.size(1);
  const at::Tensor q = pad_rows(in.q.mul(in.scale), queries);
  at::Tensor k = pad_rows(in.k, keys);
  at::Tensor v = pad_rows(in.v, keys);
  at::Tensor bias = mask_of(queries, keys, in.causal, q);
  if (in.bias.defined()) {
    bias = bias.defined() ? bias.add(in.bias) : in.bias;
  }
  if (in.extra_k.defined()) {
    k = put_in_front(in.extra_k, k);
    v = put_in_front(in.extra_v, v);
    if (bias.defined()) {
      bias = at::constant_pad_nd(bias, {in.extra_k.size(-2), 0});
    }
  }
  at::Tensor scores = at::bmm(split_heads(q, in.heads),
                              split_heads(k, in.heads).transpose(1, 2))
                          .view({batch, in.heads, q.size(1), k.size(1)});
  if (bias.defined()) scores = scores.add(bias);
  const at::Tensor weights =
      dropout_attention(at::softmax(scores, -1), in.dropout, in.key, queries);
  return unpad_rows(at::bmm(weights.flatten(0, 1), split_heads(v, in.heads))
                        .view({batch, in.heads, q.size(1), width / in.heads})
                        .transpose(1, 2)
                        .reshape({batch, q.size(1), width}),
                    queries);
}

}  // namespace thinwire
