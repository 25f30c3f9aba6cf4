#include "peft/delta_modules.h"

#include <ATen/ops/zeros.h>

#include <cmath>
#include <memory>
#include <utility>

#include "base/error.h"
#include "peft/activation.h"
#include "peft/added_bias.h"
#include "peft/low_rank_path.h"
#include "peft/projection.h"

namespace thinwire {
namespace {

// A tap that stands at a norm has the norm's slots.
bool is_norm(const Site& site) {
  return site.kind == SiteKind::kTap && site.weight >= 0;
}

// The tensor that the module is when it needs no gate; -1: the model has none.
int own_slot(ModuleKind kind, const Site& site) {
  if (kind == ModuleKind::kGain) return site.weight;
  return kind == ModuleKind::kBias ? site.bias : -1;
}

std::string lora_name(const Site& site, char factor) {
  return fmt::format("base_model.model.{}.lora_{}.weight", site.name, factor);
}
std::string adapter_stem(const Site& site) {
  return site.name + ".adapters.thinwire.";
}
std::string added_name(ModuleKind kind, const Site& site) {
  return fmt::format("{}.added_{}", site.name, name_of(kind));
}

ProjectionPlace down_of(const Site& site, std::int64_t m) {
  return {adapter_stem(site) + "adapter_down.0.", site.d_out, m, false};
}
ProjectionPlace up_of(const Site& site, std::int64_t m) {
  return {adapter_stem(site) + "adapter_up.", m, site.d_out, true};
}

class GatedAdapter : public SublayerAttachment {
 public:
  GatedAdapter(std::unique_ptr<Projection> down, std::unique_ptr<Projection> up,
               Activation activation, Gate gate)
      : down_(std::move(down)),
        up_(std::move(up)),
        activation_(activation),
        gate_(gate) {}

  at::Tensor adapt(const SublayerState& s, const ForwardContext&) override {
    return s.u.add(gate_((*up_)(activation_((*down_)(s.u)))));
  }

 private:
  std::unique_ptr<Projection> down_, up_;
  Activation activation_;
  Gate gate_;
};

class NormBias : public TapAttachment {
 public:
  NormBias(at::Tensor bias, Gate gate) : bias_(std::move(bias)), gate_(gate) {}

  at::Tensor layer_output(const at::Tensor& normed,
                          const ForwardContext&) override {
    return normed.add(gate_(bias_));
  }

 private:
  at::Tensor bias_;
  Gate gate_;
};

}  // namespace

std::string_view name_of(ModuleKind kind) {
  switch (kind) {
    case ModuleKind::kLora:
      return "lora";
    case ModuleKind::kAdapter:
      return "adapter";
    case ModuleKind::kBias:
      return "bias";
    case ModuleKind::kGain:
      return "gain";
  }
  fail<InternalError>("module kind {}", static_cast<int>(kind));
}

std::string_view sites_of(ModuleKind kind) {
  switch (kind) {
    case ModuleKind::kLora:
      return "linear module";
    case ModuleKind::kAdapter:
      return "sublayer";
    case ModuleKind::kBias:
      return "linear module or norm";
    case ModuleKind::kGain:
      return "norm";
  }
  fail<InternalError>("module kind {}", static_cast<int>(kind));
}

bool takes(ModuleKind kind, const Site& site) {
  const bool linear =
      site.kind == SiteKind::kLinear && site.role != Role::kHead;
  switch (kind) {
    case ModuleKind::kLora:
      return linear;
    case ModuleKind::kAdapter:
      return site.kind == SiteKind::kSublayer;
    case ModuleKind::kBias:
      return linear || is_norm(site);
    case ModuleKind::kGain:
      return is_norm(site);
  }
  fail<InternalError>("module kind {}", static_cast<int>(kind));
}

bool in_space(ModuleKind kind, const Site& site) {
  return takes(kind, site) &&
         (is_norm(site) || site.role == Role::kSelfAttention ||
          site.role == Role::kFeedForward);
}

ModuleFactory::ModuleFactory(std::string_view method, const ModuleSizes& sizes)
    : method_(method), sizes_(sizes) {
  const auto require = [&](bool right, const char* key, const char* what,
                           auto value) {
    if (right) return;
    fail<UsageError>("{}: {} must be {}, got {}", method_, key, what, value);
  };
  constexpr std::int64_t kMost = 65536;
  require(sizes.r >= 1 && sizes.r <= kMost, "r", "in [1, 65536]", sizes.r);
  require(sizes.alpha > 0 && std::isfinite(sizes.alpha), "alpha", "positive",
          sizes.alpha);
  require(sizes.reduction_factor > 0 && std::isfinite(sizes.reduction_factor),
          "reduction_factor", "positive", sizes.reduction_factor);
  require(sizes.adapter_rank >= 1 && sizes.adapter_rank <= kMost,
          "adapter_rank", "in [1, 65536]", sizes.adapter_rank);
  find_activation(method_, sizes.non_linearity);
}

const Site& ModuleFactory::site(const Backbone& backbone,
                                const DeltaModule& m) const {
  return backbone.sites()[static_cast<std::size_t>(m.site)];
}

std::int64_t ModuleFactory::width(const Site& site) const {
  const auto m = static_cast<std::int64_t>(static_cast<double>(site.d_out) /
                                           sizes_.reduction_factor);
  if (m < 1) {
    fail<UsageError>(
        "{}: reduction_factor {} leaves nothing of width {}; lower it", method_,
        sizes_.reduction_factor, site.d_out);
  }
  return m;
}

std::int64_t ModuleFactory::count(const Backbone& backbone,
                                  const DeltaModule& m) const {
  const Site& s = site(backbone, m);
  switch (m.kind) {
    case ModuleKind::kLora:
      return sizes_.r * (s.d_in + s.d_out);
    case ModuleKind::kAdapter: {
      const std::int64_t inner = width(s);
      return (2 * sizes_.adapter_rank + 1) * (s.d_out + inner);
    }
    case ModuleKind::kBias:
    case ModuleKind::kGain:
      return s.d_out;
  }
  fail<InternalError>("module kind {}", static_cast<int>(m.kind));
}

void ModuleFactory::declare(DeltaBuilder& builder, const Backbone& backbone,
                            const DeltaModule& m, std::uint64_t seed,
                            bool gated) const {
  const Site& s = site(backbone, m);
  if (const int slot = own_slot(m.kind, s); slot >= 0 && !gated) {
    return declare_slot(builder, backbone, slot);
  }
  switch (m.kind) {
    case ModuleKind::kLora: {
      const std::string a = lora_name(s, 'A');
      declare_dense(
          builder, a,
          uniform_values(a, {sizes_.r, s.d_in},
                         1 / std::sqrt(static_cast<double>(s.d_in)), seed));
      declare_dense(builder, lora_name(s, 'B'),
                    at::zeros({s.d_out, sizes_.r}, at::kFloat));
      return;
    }
    case ModuleKind::kAdapter: {
      const auto kind = low_rank_projections(sizes_.adapter_rank);
      kind->declare(builder, down_of(s, width(s)), seed);
      kind->declare(builder, up_of(s, width(s)), seed);
      return;
    }
    case ModuleKind::kBias:
    case ModuleKind::kGain:
      declare_dense(builder, added_name(m.kind, s),
                    at::zeros({s.d_out}, at::kFloat));
      return;
  }
}

void ModuleFactory::attach(Backbone& backbone, const Delta& delta,
                           const DeltaModule& m) const {
  if (own_slot(m.kind, site(backbone, m)) >= 0) return;  // bound already
  put(backbone, delta, m, {});
}

void ModuleFactory::attach(Backbone& backbone, const Delta& delta,
                           const DeltaModule& m, const Gate& gate) const {
  if (m.kind != ModuleKind::kGain) return put(backbone, delta, m, gate);
  // (w + g) * n(x): the norm's weight is made from both.
  const Site& s = site(backbone, m);
  Parameters& p = backbone.parameters();
  p.set_computed(s.weight,
                 [frozen = p.slot(s.weight).frozen, gate,
                  gain = delta.leaf(added_name(m.kind, s))](
                     const ForwardContext&) { return frozen.add(gate(gain)); });
}

void ModuleFactory::put(Backbone& backbone, const Delta& delta,
                        const DeltaModule& m, const Gate& gate) const {
  const Site& s = site(backbone, m);
  switch (m.kind) {
    case ModuleKind::kLora:
      backbone.attach(m.site, std::make_shared<LowRankPath>(
                                  delta.leaf(lora_name(s, 'A')),
                                  delta.leaf(lora_name(s, 'B')),
                                  sizes_.alpha / static_cast<double>(sizes_.r),
                                  /*dropout=*/0, s.name, gate));
      return;
    case ModuleKind::kAdapter: {
      const auto kind = low_rank_projections(sizes_.adapter_rank);
      backbone.attach(
          m.site, std::make_shared<GatedAdapter>(
                      kind->read(delta, down_of(s, width(s))),
                      kind->read(delta, up_of(s, width(s))),
                      find_activation(method_, sizes_.non_linearity), gate));
      return;
    }
    case ModuleKind::kBias: {
      const at::Tensor& bias = delta.leaf(added_name(m.kind, s));
      if (is_norm(s)) {
        backbone.attach(m.site, std::make_shared<NormBias>(bias, gate));
      } else {
        backbone.attach(m.site, std::make_shared<AddedBias>(bias, gate));
      }
      return;
    }
    case ModuleKind::kGain:
      fail<InternalError>("{}: its gain is a slot of its own", s.name);
  }
}

void ModuleFactory::merge(const Backbone& backbone, const Delta& delta,
                          const DeltaModule& m, MergedSlots& slots) const {
  const Site& s = site(backbone, m);
  if (own_slot(m.kind, s) >= 0) return;  // a target
  if (m.kind == ModuleKind::kLora) {
    const at::Tensor a = delta.leaf(lora_name(s, 'A')).detach();
    const at::Tensor b = delta.leaf(lora_name(s, 'B')).detach();
    own_weight(slots, backbone, s, method_)
        .add_(b.matmul(a), sizes_.alpha / static_cast<double>(sizes_.r));
    return;
  }
  fail<UsageError>(
      "{}: the {} at {} cannot be merged: this {} has no tensor for it",
      method_, name_of(m.kind), s.name, backbone.config().architecture);
}

}  // namespace thinwire
