#include "models/post_norm.h"

#include "ops/block_steps.h"

namespace thinwire {

Init PostNormBackbone::normal() const {
  return {Init::Kind::kNormal, static_cast<float>(config_.initializer_range)};
}

Norm PostNormBackbone::add_norm(TensorSource& source, const std::string& name) {
  const auto get = [&](const char* now, const char* before, Init::Kind kind) {
    return parameters_.add(
        name + now,
        source.get({name + now, name + before}, {config_.d_model}, {kind, 0}));
  };
  return {get(".weight", ".gamma", Init::Kind::kOnes),
          get(".bias", ".beta", Init::Kind::kZeros)};
}

Site PostNormBackbone::place(Stack stack, std::string name, Role role,
                             int layer) const {
  return {.name = std::move(name),
          .kind = SiteKind::kTap,
          .stack = stack,
          .role = role,
          .layer = layer,
          .d_in = config_.d_model,
          .d_out = config_.d_model};
}

int PostNormBackbone::add_other(Site site, SiteKind kind, const Norm& norm) {
  site.kind = kind;
  site.norm_weight = norm.weight;
  site.norm_bias = norm.bias;
  return add_site(std::move(site));
}

int PostNormBackbone::add_linear(TensorSource& source, Site site,
                                 std::int64_t d_in, std::int64_t d_out) {
  const std::string weight = site.name + ".weight", bias = site.name + ".bias";
  site.kind = SiteKind::kLinear;
  site.d_in = d_in;
  site.d_out = d_out;
  site.weight = parameters_.add_matrix(
      weight, source.matrix({weight}, {d_out, d_in}, normal()));
  site.bias = parameters_.add(
      bias, source.get({bias}, {d_out}, {Init::Kind::kZeros, 0}));
  return add_site(std::move(site));
}

at::Tensor PostNormBackbone::norm(const at::Tensor& x, const Norm& n,
                                  const ForwardContext& ctx) const {
  return layer_norm_of(x, n.weight, n.bias, ctx);
}

at::Tensor PostNormBackbone::add_and_norm(int site, const Norm& n,
                                          const at::Tensor& x, at::Tensor u,
                                          std::uint32_t dropout,
                                          const ForwardContext& ctx) {
  const double p = ctx.training ? config_.dropout : 0;
  if (at_site(site).sublayer.empty()) {
    const DropoutKey key = ctx.dropout_key(dropout);
    const Parameters::Use weight = parameters_.use(n.weight, ctx),
                          bias = parameters_.use(n.bias, ctx);
    if (weight.watch != nullptr || bias.watch != nullptr) {
      return norm(dropout_add(x, u, p, key, *ctx.layout), n, ctx);
    }
    return dropout_add_layer_norm(x, u, p, key, *ctx.layout, weight.tensor,
                                  bias.tensor, config_.norm_eps);
  }
  u = adapt(site,
            {x, x, drop(u, p, dropout, ctx),
             [&](const at::Tensor& sum) { return norm(sum, n, ctx); }},
            ctx);
  return norm(x.add(u), n, ctx);
}

}  // namespace thinwire
