#define TORCH_ASSERT_ONLY_METHOD_OPERATORS
#include "models/transformer.h"

#include <memory>

#include "base/error.h"
#include "models/embedded_stream.h"
#include "models/side_network.h"
#include "ops/checkpoint.h"

namespace thinwire {

Init Transformer::normal(double by) const {
  return {Init::Kind::kNormal,
          static_cast<float>(config_.initializer_range * by)};
}

int Transformer::add(TensorSource& source, const std::string& name,
                     const std::vector<std::int64_t>& shape, const Init& init) {
  return parameters_.add(name, source.get({name}, shape, init));
}

Transformer::Norm Transformer::add_layer_norm(TensorSource& source, Site site) {
  const auto get = [&](const char* now, const char* before, Init::Kind kind) {
    const std::string& name = site.name;
    return parameters_.add(
        name + now,
        source.get({name + now, name + before}, {config_.d_model}, {kind, 0}));
  };
  const int weight = get(".weight", ".gamma", Init::Kind::kOnes);
  const int bias = get(".bias", ".beta", Init::Kind::kZeros);
  return add_norm(std::move(site), weight, bias);
}

Transformer::Norm Transformer::add_rms_norm(TensorSource& source, Site site) {
  const int weight = add(source, site.name + ".weight", {config_.d_model},
                         {Init::Kind::kOnes, 0});
  return add_norm(std::move(site), weight, -1);
}

Transformer::Norm Transformer::add_norm(Site site, int weight, int bias) {
  site.weight = weight;
  site.bias = bias;
  return {weight, bias, add_other(std::move(site), SiteKind::kTap)};
}

Site Transformer::place(Stack stack, std::string name, Role role,
                        int layer) const {
  return {.name = std::move(name),
          .kind = SiteKind::kTap,
          .stack = stack,
          .role = role,
          .layer = layer,
          .d_in = config_.d_model,
          .d_out = config_.d_model};
}

int Transformer::add_linear(TensorSource& source, Site site, std::int64_t d_in,
                            std::int64_t d_out, const LinearOptions& options) {
  const std::string weight = site.name + ".weight", bias = site.name + ".bias";
  const bool out_in = options.axes == WeightAxes::kOutIn;
  site.kind = SiteKind::kLinear;
  site.d_in = d_in;
  site.d_out = d_out;
  site.fused = options.fused;
  site.weight = parameters_.add_matrix(
      weight,
      source.matrix({weight}, {out_in ? d_out : d_in, out_in ? d_in : d_out},
                    normal(options.by), options.axes));
  if (options.bias) {
    site.bias = add(source, bias, {d_out}, {Init::Kind::kZeros, 0});
  }
  return add_site(std::move(site));
}

int Transformer::add_other(Site site, SiteKind kind) {
  site.kind = kind;
  return add_site(std::move(site));
}

void Transformer::add_sublayer(Sublayer& s, Site site, const Norm& norm) {
  s.norm = norm;
  s.dropout = dropout_site(site.name + ".dropout");
  site.norm_weight = norm.weight;
  site.norm_bias = norm.bias;
  s.site = add_other(std::move(site), SiteKind::kSublayer);
}

BackboneOutput Transformer::pass(Stack stack, const TokenStream& in,
                                 const BackboneOutput* memory,
                                 const ForwardContext& outer) {
  EmbeddedStream stream(in.layout);
  ForwardContext ctx = outer;
  ctx.layout = &stream.layout;
  ctx.memory = memory == nullptr ? nullptr : &memory->layout;
  const auto of_memory = [&](at::Tensor BackboneOutput::*part) {
    return memory == nullptr ? at::Tensor() : memory->*part;
  };
  BackboneOutput out;
  StackStates states;
  if (in.states != nullptr) {
    THINWIRE_ASSERT(side_ != nullptr && outer.cache == nullptr,
                    "states of a stack, and nothing that reads them");
    states = *in.states;
  } else {
    if (side_ != nullptr) {
      ctx.states = &states;
      if (side_->stills_stream()) ctx.training = false;
    }
    out.hidden = run_stack(stack, embed_stack(stack, in, stream, ctx),
                           of_memory(&BackboneOutput::hidden), ctx);
  }
  if (side_ != nullptr) {
    ctx.states = nullptr;
    ctx.training = outer.training;
    auto [hidden, own] = side_->run(stack, std::move(states),
                                    of_memory(&BackboneOutput::side), ctx);
    if (hidden.defined()) out.hidden = std::move(hidden);
    out.side = std::move(own);
  }
  out.first_rows = stream.first_rows();
  out.token_rows = stream.token_rows();
  out.layout = std::move(stream.layout);
  return out;
}

at::Tensor Transformer::run_blocks(const std::vector<Block>& blocks,
                                   BlockInputs in, const ForwardContext& ctx) {
  at::Tensor h = std::move(in.hidden);
  for (const Block& b : blocks) {
    for (const auto& a : at_site(b.tap).tap) h = a->layer_input(h, ctx);
    // A block's uses of the memory are summed before those of all blocks,
    // whether it is computed again or not.
    const at::Tensor memory =
        in.memory.defined() ? in.memory.view_as(in.memory) : at::Tensor();
    h = run_or_checkpoint(b, {std::move(h), memory, in.bias}, ctx);
    for (const auto& a : at_site(b.tap).tap) h = a->layer_output(h, ctx);
    const Site& layer = sites_[static_cast<std::size_t>(b.tap)];
    if (ctx.states != nullptr && side_->reads(layer.stack, layer.layer)) {
      ctx.states->outputs.push_back(h);
    }
  }
  return h;
}

at::Tensor Transformer::run_or_checkpoint(const Block& b, BlockInputs in,
                                          const ForwardContext& ctx) {
  if (!ctx.checkpoint_blocks) return run_block(b, in, ctx);
  // The caller's layouts are gone when backward runs.
  struct Kept {
    ForwardContext ctx;
    Layout layout, memory;
  };
  auto kept = std::make_shared<Kept>();
  kept->ctx = ctx;
  kept->layout = *ctx.layout;
  kept->ctx.layout = &kept->layout;
  if (ctx.memory != nullptr) {
    kept->memory = *ctx.memory;
    kept->ctx.memory = &kept->memory;
  }
  return checkpoint(
      [this, &b, kept](const std::vector<at::Tensor>& own) {
        return run_block(b, {own[0], own[1], own[2]}, kept->ctx);
      },
      {std::move(in.hidden), std::move(in.memory), std::move(in.bias)});
}

}  // namespace thinwire
