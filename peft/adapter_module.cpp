#include "peft/adapter_module.h"

#include <ATen/ops/full.h>

#include <cmath>

#include "base/error.h"
#include "base/random.h"
#include "peft/activation.h"
#include "peft/method_tools.h"
#include "peft/projection.h"

namespace thinwire {
namespace {

std::string stem(const Site& site) { return site.name + ".adapters.thinwire."; }
ProjectionPlace down_of(const Site& site, std::int64_t m) {
  return {stem(site) + "adapter_down.0.", site.d_out, m, false};
}
ProjectionPlace up_of(const Site& site, std::int64_t m) {
  return {stem(site) + "adapter_up.", m, site.d_out, true};
}
std::string scaling_of(const Site& site) { return stem(site) + "scaling"; }

// Of the config, what an adapter does with its input.
struct Behaviour {
  AdapterInput input;
  Activation activation;
  double scaling, dropout;
  std::int64_t robust_drop;
};

// Layers whose adapters this step leaves out.
std::int64_t dropped_layers(std::int64_t most, const ForwardContext& ctx) {
  if (!ctx.training || most == 0) return 0;
  static const std::uint32_t kSite = dropout_site("adapter_drop");
  const PhiloxBlock drawn =
      philox(make_key(ctx.seed, Purpose::kDropout, ctx.step), {kSite, 0, 0, 0});
  return static_cast<std::int64_t>(drawn[0]) % (most + 1);
}

class Adapter : public SublayerAttachment {
 public:
  Adapter(const Behaviour& behaviour, const Site& site,
          std::unique_ptr<Projection> down, std::unique_ptr<Projection> up,
          at::Tensor scaling)
      : is_(behaviour),
        layer_(site.layer),
        dropout_site_(dropout_site(stem(site) + "dropout")),
        down_(std::move(down)),
        up_(std::move(up)),
        scaling_(std::move(scaling)) {}

  at::Tensor adapt(const SublayerState& s, const ForwardContext& ctx) override {
    if (layer_ < dropped_layers(is_.robust_drop, ctx)) return s.u;
    at::Tensor inner = is_.activation((*down_)(input(s)));
    if (ctx.training && is_.dropout > 0) {
      inner = dropout(inner, is_.dropout, ctx.dropout_key(dropout_site_),
                      *ctx.layout);
    }
    const at::Tensor f = (*up_)(inner);
    return scaling_.defined() ? s.u.add(f.mul(scaling_))
                              : s.u.add(f, is_.scaling);
  }

 private:
  at::Tensor input(const SublayerState& s) const {
    switch (is_.input) {
      case AdapterInput::kOutput:
        return s.u;
      case AdapterInput::kNormedSum:
        return s.norm(s.x.add(s.u));
      case AdapterInput::kResidual:
        return s.x;
    }
    fail<InternalError>("adapter input {}", static_cast<int>(is_.input));
  }

  Behaviour is_;
  int layer_;
  std::uint32_t dropout_site_;
  std::unique_ptr<Projection> down_, up_;
  at::Tensor scaling_;  // where it trains
};

class AdapterMethod : public Method {
 public:
  AdapterMethod(const AdapterPreset& preset, Config config)
      : preset_(preset),
        config_(std::move(config)),
        self_(flag("self_attention")),
        cross_(flag("cross_adapter")),
        learn_scaling_(flag("learn_scaling")),
        drop_first_(config_.at("drop_first").get<std::int64_t>()),
        is_{normed_input() ? AdapterInput::kNormedSum : preset.input,
            find_activation(preset.id,
                            config_.at("non_linearity").get<std::string>()),
            number("scaling"), number("dropout"),
            config_.at("robust_drop").get<std::int64_t>()} {
    const Config& m = config_.at("bottleneck");
    const Config& factor = config_.at("reduction_factor");
    if (m.is_null() == factor.is_null()) {
      fail<UsageError>(
          "{}: give either bottleneck or reduction_factor (the other one as "
          "~)",
          id());
    }
    if (!m.is_null()) bottleneck_ = m.get<std::int64_t>();
    if (!factor.is_null()) factor_ = factor.get<double>();
    require(m.is_null() || bottleneck_ >= 1, "bottleneck", "at least 1");
    require(factor.is_null() || factor_ > 0, "reduction_factor", "positive");
    require(is_.dropout >= 0 && is_.dropout < 1, "dropout", "in [0, 1)");
    require(std::isfinite(is_.scaling), "scaling", "finite");
    require(drop_first_ >= 0, "drop_first", "at least 0");
    require(is_.robust_drop >= 0, "robust_drop", "at least 0");
    kind_ = projections();
  }

  std::string_view id() const override { return preset_.id; }

  void declare(DeltaBuilder& builder, const Backbone& backbone,
               const DeclareContext& context) override {
    builder.method_config(config_text(id(), config_));
    kind_->declare_shared(builder, context.seed);
    for (const int number : sites(backbone)) {
      const Site& site = backbone.sites()[static_cast<std::size_t>(number)];
      const std::int64_t m = width(site.d_out);
      kind_->declare(builder, down_of(site, m), context.seed);
      kind_->declare(builder, up_of(site, m), context.seed);
      if (learn_scaling_) {
        declare_dense(builder, scaling_of(site),
                      at::full({1}, is_.scaling, at::kFloat));
      }
    }
    if (flag("layer_norms")) declare_layer_norms(builder, backbone);
    if (flag("train_head")) declare_head(builder, backbone);
  }

  void attach(Backbone& backbone, const Delta& delta) override {
    for (const int number : sites(backbone)) {
      const Site& site = backbone.sites()[static_cast<std::size_t>(number)];
      const std::int64_t m = width(site.d_out);
      backbone.attach(
          number,
          std::make_shared<Adapter>(
              is_, site, kind_->read(delta, down_of(site, m)),
              kind_->read(delta, up_of(site, m)),
              learn_scaling_ ? delta.leaf(scaling_of(site)) : at::Tensor()));
    }
  }

  void merge(const Backbone&, const Delta&, MergedSlots&) const override {
    fail<UsageError>(
        "{}: adapters stand between layers and cannot be merged into weights",
        id());
  }

 private:
  bool flag(const char* key) const { return config_.at(key).get<bool>(); }
  double number(const char* key) const { return config_.at(key).get<double>(); }
  bool normed_input() const {
    return preset_.hypercomplex && flag("normed_input");
  }

  void require(bool right, const char* key, const char* what) const {
    if (right) return;
    fail<UsageError>("{}: {} must be {}, got {}", id(), key, what,
                     config_.at(key).dump());
  }

  std::unique_ptr<ProjectionKind> projections() const {
    if (preset_.hypercomplex) {
      const HypercomplexOptions options{
          .method = preset_.id,
          .n = config_.at("phm_dim").get<std::int64_t>(),
          .rank = config_.at("phm_rank").get<std::int64_t>(),
          .shared_rule = flag("shared_rule")};
      require(options.n >= 1, "phm_dim", "at least 1");
      require(options.rank >= 0, "phm_rank", "at least 0");
      return hypercomplex_projections(options);
    }
    const std::string init = config_.at("init").get<std::string>();
    require(init == "normal" || init == "lora", "init", "normal or lora");
    const double std = number("init_std");
    require(std >= 0 && std::isfinite(std), "init_std", "at least 0");
    return dense_projections({.std = std, .zero_up = init == "lora"});
  }

  std::vector<int> sites(const Backbone& backbone) const {
    std::vector<int> out;
    for (std::size_t i = 0; i < backbone.sites().size(); ++i) {
      const Site& site = backbone.sites()[i];
      if (site.kind != SiteKind::kSublayer || site.layer < drop_first_) {
        continue;
      }
      const bool takes = site.role == Role::kFeedForward ||
                         (self_ && site.role == Role::kSelfAttention) ||
                         (cross_ && site.role == Role::kCrossAttention);
      if (takes) out.push_back(static_cast<int>(i));
    }
    if (out.empty()) {
      fail<UsageError>("{}: drop_first {} leaves no layer of this {}", id(),
                       drop_first_, backbone.config().architecture);
    }
    return out;
  }

  std::int64_t width(std::int64_t d) const {
    if (bottleneck_ > 0) return bottleneck_;
    const auto m = static_cast<std::int64_t>(static_cast<double>(d) / factor_);
    if (m < 1) {
      fail<UsageError>("{}: reduction_factor {} leaves nothing of width {}",
                       id(), factor_, d);
    }
    return m;
  }

  AdapterPreset preset_;
  Config config_;
  bool self_, cross_, learn_scaling_;
  std::int64_t drop_first_;
  Behaviour is_;
  std::int64_t bottleneck_ = 0;
  double factor_ = 0;
  std::unique_ptr<ProjectionKind> kind_;
};

}  // namespace

std::unique_ptr<Method> make_adapter_method(const AdapterPreset& preset,
                                            const Config& config) {
  Config c = config;
  if (c.at("bottleneck").is_null() && c.at("reduction_factor").is_null()) {
    if (preset.bottleneck > 0) c["bottleneck"] = preset.bottleneck;
    if (preset.reduction_factor > 0) {
      c["reduction_factor"] = preset.reduction_factor;
    }
  }
  return std::make_unique<AdapterMethod>(preset, std::move(c));
}

}  // namespace thinwire
