#define TORCH_ASSERT_ONLY_METHOD_OPERATORS
#include "ops/attention.h"

#include <ATen/ops/bmm.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/constant_pad_nd.h>
#include <ATen/ops/scaled_dot_product_attention.h>
#include <ATen/ops/softmax.h>
#include <ATen/ops/zeros.h>

#include <array>
#include <limits>
#include <optional>

#include "base/error.h"
#include "ops/backward.h"

namespace thinwire {
namespace {

// [B, L, H D] -> [B H, L, D], contiguous: what bmm runs on.
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

// Where LibTorch's blocked kernel, which never holds the scores, was measured
// faster on one core (B 4-32, H 8-12): wide heads, and with a backward only
// long keys. [4, 128, 8 x 64] forward 2.3 ms instead of 6.7; [8, 512, 8 x 64]
// forward and backward 550 instead of 1440; [32, 30, 12 x 32] 3.1 instead of
// 2.2. It draws its own dropout and has no gradient for the bias.
bool blocked_is_faster(const AttentionInputs& in, std::int64_t head_width) {
  if (in.dropout > 0 || head_width < 64) return false;
  if (needs_graph(std::array{in.bias})) return false;
  const bool graph =
      needs_graph(std::array{in.q, in.k, in.v, in.extra_k, in.extra_v});
  return !graph || in.keys->max_length >= 256;
}

at::Tensor blocked(const at::Tensor& q, const at::Tensor& k,
                   const at::Tensor& v, const at::Tensor& bias,
                   std::int64_t heads, double scale) {
  const auto split = [&](const at::Tensor& x) {
    return x.view({x.size(0), x.size(1), heads, x.size(2) / heads})
        .transpose(1, 2);
  };
  return at::scaled_dot_product_attention(
             split(q), split(k), split(v),
             bias.defined() ? std::optional(bias) : std::nullopt, 0.0, false,
             scale)
      .transpose(1, 2)
      .reshape(q.sizes());
}

}  // namespace

at::Tensor attention(const AttentionInputs& in) {
  const Layout& queries = *in.queries;
  const Layout& keys = *in.keys;
  const std::int64_t batch = queries.batch(), width = in.q.size(1);
  THINWIRE_ASSERT(keys.batch() == batch, "{} query and {} key sequences", batch,
                  keys.batch());
  THINWIRE_ASSERT(width % in.heads == 0, "width {}, {} heads", width, in.heads);
  THINWIRE_ASSERT(keys.uniform || in.bias.defined(),
                  "ragged keys need attention_mask() in the bias");
  THINWIRE_ASSERT(in.extra_k.defined() == in.extra_v.defined(),
                  "extra keys without extra values, or the reverse");

  at::Tensor k = pad_rows(in.k, keys);
  at::Tensor v = pad_rows(in.v, keys);
  at::Tensor bias = in.bias;
  if (in.extra_k.defined()) {
    k = put_in_front(in.extra_k, k);
    v = put_in_front(in.extra_v, v);
    if (bias.defined()) {
      bias = at::constant_pad_nd(bias, {in.extra_k.size(-2), 0});
    }
  }
  if (blocked_is_faster(in, width / in.heads)) {
    return unpad_rows(
        blocked(pad_rows(in.q, queries), k, v, bias, in.heads, in.scale),
        queries);
  }
  // Scaling q touches fewer numbers than scaling the scores.
  const at::Tensor q =
      pad_rows(in.scale == 1 ? in.q : in.q.mul(in.scale), queries);

  at::Tensor scores = at::bmm(split_heads(q, in.heads),
                              split_heads(k, in.heads).transpose(1, 2))
                          .view({batch, in.heads, q.size(1), k.size(1)});
  if (bias.defined()) scores.add_(bias);  // bmm does not keep its result
  at::Tensor weights = at::softmax(scores, -1);
  weights = dropout_attention(weights, in.dropout, in.key, queries);
  const at::Tensor out =
      at::bmm(weights.flatten(0, 1), split_heads(v, in.heads));
  return unpad_rows(out.view({batch, in.heads, q.size(1), width / in.heads})
                        .transpose(1, 2)
                        .reshape({batch, q.size(1), width}),
                    queries);
}

at::Tensor attention_mask(const Layout& queries, const Layout& keys,
                          bool causal) {
  if (keys.uniform && !causal) return {};
  const bool by_position =
      causal && !(queries.contiguous_positions && keys.contiguous_positions);
  const std::int64_t batch = keys.uniform && !by_position ? 1 : keys.batch();
  const std::int64_t rows = queries.max_length, columns = keys.max_length;
  at::Tensor mask = at::zeros({batch, 1, rows, columns});
  const auto* query_position = queries.positions.const_data_ptr<std::int64_t>();
  const auto* key_position = keys.positions.const_data_ptr<std::int64_t>();
  auto* out = mask.data_ptr<float>();
  constexpr float kNever = std::numeric_limits<float>::lowest();
  for (std::size_t b = 0; b < static_cast<std::size_t>(batch); ++b) {
    const std::int64_t key_length = keys.offsets[b + 1] - keys.offsets[b];
    const std::int64_t query_length =
        queries.offsets[b + 1] - queries.offsets[b];
    for (std::int64_t i = 0; i < rows; ++i, out += columns) {
      for (std::int64_t j = key_length; j < columns; ++j) out[j] = kNever;
      if (!causal) continue;
      if (!by_position) {
        for (std::int64_t j = i + 1; j < key_length; ++j) out[j] = kNever;
      } else if (i < query_length) {
        const std::int64_t now = query_position[queries.offsets[b] + i];
        for (std::int64_t j = 0; j < key_length; ++j) {
          if (key_position[keys.offsets[b] + j] > now) out[j] = kNever;
        }
      }
    }
  }
  return mask;
}

}  // namespace thinwire
