#define TORCH_ASSERT_ONLY_METHOD_OPERATORS
#include <ATen/ops/bmm.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/constant_pad_nd.h>
#include <ATen/ops/softmax.h>
#include <ATen/ops/zeros.h>

#include <limits>

#include "ops/attention.h"

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

// 0 where the query may look, the lowest float where it may not (past the end
// of its sequence; causal: past its own position): [B, 1, Lq, Lk].
at::Tensor mask_of(const Layout& queries, const Layout& keys, bool causal) {
  const std::int64_t rows = queries.max_length, columns = keys.max_length;
  at::Tensor mask = at::zeros({keys.batch(), 1, rows, columns});
  const auto* query_position = queries.positions.const_data_ptr<std::int64_t>();
  const auto* key_position = keys.positions.const_data_ptr<std::int64_t>();
  auto* out = mask.data_ptr<float>();
  constexpr float kNever = std::numeric_limits<float>::lowest();
  for (std::size_t b = 0; b < static_cast<std::size_t>(keys.batch()); ++b) {
    const std::int64_t key_length = keys.offsets[b + 1] - keys.offsets[b];
    const std::int64_t query_length =
        queries.offsets[b + 1] - queries.offsets[b];
    for (std::int64_t i = 0; i < rows; ++i, out += columns) {
      for (std::int64_t j = key_length; j < columns; ++j) out[j] = kNever;
      if (!causal || i >= query_length) continue;
      const std::int64_t now = query_position[queries.offsets[b] + i];
      for (std::int64_t j = 0; j < key_length; ++j) {
        if (key_position[keys.offsets[b] + j] > now) out[j] = kNever;
      }
    }
  }
  return mask;
}

}  // namespace

at::Tensor attention_reference(const AttentionInputs& in) {
  const Layout& queries = *in.queries;
  const Layout& keys = *in.keys;
  const std::int64_t batch = queries.batch(), width = in.q.size(1);
  const at::Tensor q = pad_rows(in.q.mul(in.scale), queries);
  at::Tensor k = pad_rows(in.k, keys);
  at::Tensor v = pad_rows(in.v, keys);
  at::Tensor bias = mask_of(queries, keys, in.causal).to(q.device());
  if (in.bias.defined()) bias = bias.add(in.bias);
  if (in.extra_k.defined()) {
    k = put_in_front(in.extra_k, k);
    v = put_in_front(in.extra_v, v);
    bias = at::constant_pad_nd(bias, {in.extra_k.size(-2), 0});
  }
  const at::Tensor scores = at::bmm(split_heads(q, in.heads),
                                    split_heads(k, in.heads).transpose(1, 2))
                                .view({batch, in.heads, q.size(1), k.size(1)})
                                .add(bias);
  const at::Tensor weights =
      dropout_attention(at::softmax(scores, -1), in.dropout, in.key, queries);
  return unpad_rows(at::bmm(weights.flatten(0, 1), split_heads(v, in.heads))
                        .view({batch, in.heads, q.size(1), width / in.heads})
                        .transpose(1, 2)
                        .reshape({batch, q.size(1), width}),
                    queries);
}

}  // namespace thinwire
