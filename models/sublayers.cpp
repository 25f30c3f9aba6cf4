// What the sublayers of a block compute: norms, attention, and their ends in
// the residual stream.
#define TORCH_ASSERT_ONLY_METHOD_OPERATORS
#include <ATen/ops/cat.h>
#include <ATen/ops/gelu.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/zeros_like.h>

#include <tuple>

#include "models/kv_cache.h"
#include "models/transformer.h"
#include "ops/attention.h"
#include "ops/block_steps.h"
#include "ops/norm.h"

namespace thinwire {

at::Tensor Transformer::norm(const at::Tensor& x, const Norm& n,
                             const ForwardContext& ctx) const {
  const auto& taps = at_site(n.tap).tap;
  at::Tensor in = x;
  for (const auto& a : taps) in = a->layer_input(in, ctx);
  at::Tensor y =
      n.bias < 0 ? rms_norm_of(in, n.weight, ctx) : layer_norm_of(in, n, ctx);
  for (const auto& a : taps) y = a->layer_output(y, ctx);
  return y;
}

at::Tensor Transformer::rms_norm_of(const at::Tensor& x, int weight,
                                    const ForwardContext& ctx) const {
  const auto [w, watch, scale, axes] = parameters_.use(weight, ctx);
  const double eps = config_.norm_eps;
  at::Tensor y = rms_norm(x, w, eps);
  if (watch == nullptr) return y;
  return watch->scaled(
      y,
      [x = x.detach(), eps] {
        return rms_norm(x, at::ones({x.size(1)}, x.options()), eps);
      },
      *ctx.layout);
}

at::Tensor Transformer::layer_norm_of(const at::Tensor& x, const Norm& n,
                                      const ForwardContext& ctx) const {
  const Parameters::Use w = parameters_.use(n.weight, ctx),
                        b = parameters_.use(n.bias, ctx);
  const double eps = config_.norm_eps;
  at::Tensor y = layer_norm(x, w.tensor, b.tensor, eps);
  if (w.watch != nullptr) {
    const auto normal = [x = x.detach(), eps] {
      const at::Tensor ones = at::ones({x.size(1)}, x.options());
      return layer_norm(x, ones, at::zeros_like(ones), eps);
    };
    y = w.watch->scaled(y, normal, *ctx.layout);
  }
  if (b.watch != nullptr) y = b.watch->added(y, *ctx.layout);
  return y;
}

at::Tensor Transformer::attend(const Attention& a, const at::Tensor& x,
                               const at::Tensor& memory, const at::Tensor& bias,
                               const ForwardContext& ctx) {
  AttentionInputs in;
  in.queries = in.keys = ctx.layout;
  in.heads = a.heads;
  in.scale = a.scale;
  in.bias = bias;
  in.q = linear(a.q, x, ctx);
  std::tie(in.extra_k, in.extra_v) = extra_keys_values(a.attention, ctx);
  if (memory.defined()) {
    memory_keys_values(a, memory, in, ctx);
  } else {
    own_keys_values(a, x, in, ctx);
  }
  if (ctx.training) in.dropout = config_.attention_dropout;
  in.key = ctx.dropout_key(a.weights_dropout);
  return linear(a.out, attention(in), ctx);
}

void Transformer::own_keys_values(const Attention& a, const at::Tensor& x,
                                  AttentionInputs& in,
                                  const ForwardContext& ctx) {
  in.causal =
      sites_[static_cast<std::size_t>(a.attention)].stack == Stack::kDecoder;
  if (a.k < 0) {
    const std::vector<at::Tensor> qkv = in.q.split(in.q.size(1) / 3, 1);
    in.q = qkv[0];
    in.k = qkv[1];
    in.v = qkv[2];
  } else {
    in.k = linear(a.k, x, ctx);
    in.v = linear(a.v, x, ctx);
  }
  if (ctx.cache != nullptr) ctx.cache->attend_self(a.attention, in);
}

void Transformer::memory_keys_values(const Attention& a,
                                     const at::Tensor& memory,
                                     AttentionInputs& in,
                                     const ForwardContext& ctx) {
  in.keys = ctx.memory;
  const auto project = [&] {
    // Keys and values have the encoder's rows; so must what attachments see.
    ForwardContext rows = ctx;
    rows.layout = ctx.memory;
    in.k = linear(a.k, memory, rows);
    in.v = linear(a.v, memory, rows);
  };
  if (ctx.cache == nullptr) {
    project();
  } else {
    ctx.cache->attend_inputs(a.attention, in, project);
  }
}

std::pair<at::Tensor, at::Tensor> Transformer::extra_keys_values(
    int site, const ForwardContext& ctx) {
  const auto& attachments = at_site(site).attention;
  if (attachments.empty()) return {};
  if (ctx.cache != nullptr) {
    return ctx.cache->extra(site, [&] {
      ForwardContext first = ctx;
      first.cache = nullptr;
      return extra_keys_values(site, first);
    });
  }
  if (attachments.size() == 1) {
    return attachments.front()->extra_keys_values(ctx);
  }
  std::vector<at::Tensor> keys, values;
  const std::int64_t batch = ctx.layout->batch();
  const auto per_sequence = [&](const at::Tensor& t) {
    return t.dim() == 3 ? t : t.unsqueeze(0).expand({batch, -1, -1});
  };
  for (const auto& a : attachments) {
    const auto [k, v] = a->extra_keys_values(ctx);
    keys.push_back(per_sequence(k));
    values.push_back(per_sequence(v));
  }
  return {at::cat(keys, 1), at::cat(values, 1)};
}

at::Tensor Transformer::activate(const at::Tensor& x) const {
  if (config_.activation == "relu") return x.relu();
  return at::gelu(x, config_.activation == "gelu" ? "none" : "tanh");
}

at::Tensor Transformer::add_residual(const Sublayer& s, const at::Tensor& x,
                                     at::Tensor input, at::Tensor u,
                                     const ForwardContext& ctx) {
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

at::Tensor Transformer::add_and_norm(const Sublayer& s, const at::Tensor& x,
                                     at::Tensor u, const ForwardContext& ctx) {
  const double p = ctx.training ? config_.dropout : 0;
  if (at_site(s.site).sublayer.empty()) {
    const DropoutKey key = ctx.dropout_key(s.dropout);
    const Parameters::Use weight = parameters_.use(s.norm.weight, ctx),
                          bias = parameters_.use(s.norm.bias, ctx);
    if (weight.watch != nullptr || bias.watch != nullptr ||
        !at_site(s.norm.tap).tap.empty()) {
      return norm(dropout_add(x, u, p, key, *ctx.layout), s.norm, ctx);
    }
    return dropout_add_layer_norm(x, u, p, key, *ctx.layout, weight.tensor,
                                  bias.tensor, config_.norm_eps);
  }
  u = adapt(s.site,
            {x, x, drop(u, p, s.dropout, ctx),
             [&](const at::Tensor& sum) { return norm(sum, s.norm, ctx); }},
            ctx);
  return norm(x.add(u), s.norm, ctx);
}

at::Tensor Transformer::adapt(int site, SublayerState state,
                              const ForwardContext& ctx) {
  for (const auto& a : at_site(site).sublayer) state.u = a->adapt(state, ctx);
  return state.u;
}

}  // namespace thinwire
