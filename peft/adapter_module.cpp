#include "peft/adapter_module.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/gelu.h>
#include <ATen/ops/linear.h>
#include <ATen/ops/silu.h>
#include <ATen/ops/zeros.h>

#include <cmath>

#include "base/error.h"
#include "base/nearest.h"
#include "base/random.h"
#include "peft/method_tools.h"

namespace thinwire {
namespace {

using Activation = at::Tensor (*)(const at::Tensor&);

Activation find_activation(std::string_view id, const std::string& name) {
  struct Known {
    const char* name;
    Activation function;
  };
  static constexpr Known kKnown[] = {
      {"gelu", [](const at::Tensor& x) { return at::gelu(x); }},
      {"gelu_new", [](const at::Tensor& x) { return at::gelu(x, "tanh"); }},
      {"relu", [](const at::Tensor& x) { return x.relu(); }},
      {"sigmoid", [](const at::Tensor& x) { return x.sigmoid(); }},
      {"swish", [](const at::Tensor& x) { return at::silu(x); }},
      {"tanh", [](const at::Tensor& x) { return x.tanh(); }},
  };
  std::vector<std::string> names;
  for (const Known& k : kKnown) {
    if (k.name == name) return k.function;
    names.emplace_back(k.name);
  }
  fail<UsageError>("{}: non_linearity '{}' is unknown; choose one of: {}", id,
                   name, list_nearest_first(name, names));
}

// Names of a module's four tensors, AdapterHub's.
struct Names {
  explicit Names(const Site& site)
      : stem(site.name + ".adapters.thinwire."),
        down(stem + "adapter_down.0.weight"),
        down_bias(stem + "adapter_down.0.bias"),
        up(stem + "adapter_up.weight"),
        up_bias(stem + "adapter_up.bias") {}
  std::string stem, down, down_bias, up, up_bias;
};

class Adapter : public SublayerAttachment {
 public:
  Adapter(const Delta& delta, const Names& names, Activation activation,
          AdapterPlace place)
      : down_(delta.leaf(names.down)),
        down_bias_(delta.leaf(names.down_bias)),
        up_(delta.leaf(names.up)),
        up_bias_(delta.leaf(names.up_bias)),
        activation_(activation),
        place_(place) {}

  at::Tensor adapt(const SublayerState& s, const ForwardContext&) override {
    const at::Tensor z =
        place_ == AdapterPlace::kEverySublayer ? s.u : s.norm(s.x.add(s.u));
    const at::Tensor inner = activation_(at::linear(z, down_, down_bias_));
    return s.u.add(at::linear(inner, up_, up_bias_));
  }

 private:
  at::Tensor down_, down_bias_, up_, up_bias_;
  Activation activation_;
  AdapterPlace place_;
};

class AdapterMethod : public Method {
 public:
  AdapterMethod(std::string_view id, AdapterPlace place, Config config)
      : id_(id),
        place_(place),
        config_(std::move(config)),
        activation_(find_activation(
            id, config_.at("non_linearity").get<std::string>())),
        init_std_(config_.at("init_std").get<double>()),
        cross_(place == AdapterPlace::kEverySublayer &&
               config_.at("cross_adapter").get<bool>()) {
    const Config& m = config_.at("bottleneck");
    const Config& factor = config_.at("reduction_factor");
    if (m.is_null() == factor.is_null()) {
      fail<UsageError>(
          "{}: give either bottleneck or reduction_factor (the other one as "
          "~)",
          id);
    }
    if (!m.is_null()) bottleneck_ = m.get<std::int64_t>();
    if (!factor.is_null()) factor_ = factor.get<double>();
    if (!m.is_null() && bottleneck_ < 1) {
      fail<UsageError>("{}: bottleneck must be at least 1, got {}", id,
                       bottleneck_);
    }
    if (!factor.is_null() && !(factor_ > 0)) {
      fail<UsageError>("{}: reduction_factor must be positive, got {}", id,
                       factor_);
    }
    if (!(init_std_ >= 0) || !std::isfinite(init_std_)) {
      fail<UsageError>("{}: init_std must be at least 0, got {}", id,
                       init_std_);
    }
  }

  std::string_view id() const override { return id_; }

  void declare(DeltaBuilder& builder, const Backbone& backbone,
               const DeclareContext& context) override {
    builder.method_config(config_text(id(), config_));
    for (const int number : sites(backbone)) {
      const Site& site = backbone.sites()[static_cast<std::size_t>(number)];
      const std::int64_t d = site.d_out, m = width(d);
      const Names names(site);
      add(builder, names.down, {m, d}, context.seed);
      add(builder, names.down_bias, {m}, context.seed);
      add(builder, names.up, {d, m}, context.seed);
      add(builder, names.up_bias, {d}, context.seed);
    }
    if (config_.at("layer_norms").get<bool>()) {
      const Parameters& p = backbone.parameters();
      for (int i = 0; i < p.size(); ++i) {
        if (!p.slot(i).head && is_layer_norm(p.slot(i).name)) {
          declare_slot(builder, backbone, i);
        }
      }
    }
    if (config_.at("train_head").get<bool>()) declare_head(builder, backbone);
  }

  void attach(Backbone& backbone, const Delta& delta) override {
    for (const int number : sites(backbone)) {
      const Site& site = backbone.sites()[static_cast<std::size_t>(number)];
      backbone.attach(number, std::make_shared<Adapter>(delta, Names(site),
                                                        activation_, place_));
    }
  }

  void merge(const Backbone&, const Delta&, MergedSlots&) const override {
    fail<UsageError>(
        "{}: adapters stand between layers and cannot be merged into weights",
        id_);
  }

 private:
  std::vector<int> sites(const Backbone& backbone) const {
    std::vector<int> out;
    for (std::size_t i = 0; i < backbone.sites().size(); ++i) {
      const Site& site = backbone.sites()[i];
      if (site.kind != SiteKind::kSublayer) continue;
      const bool takes = site.role == Role::kFeedForward ||
                         (place_ == AdapterPlace::kEverySublayer &&
                          (site.role == Role::kSelfAttention ||
                           (cross_ && site.role == Role::kCrossAttention)));
      if (takes) out.push_back(static_cast<int>(i));
    }
    return out;
  }

  std::int64_t width(std::int64_t d) const {
    if (bottleneck_ > 0) return bottleneck_;
    const auto m = static_cast<std::int64_t>(static_cast<double>(d) / factor_);
    if (m < 1) {
      fail<UsageError>("{}: reduction_factor {} leaves nothing of width {}",
                       id_, factor_, d);
    }
    return m;
  }

  // Matrices normal, biases 0.
  void add(DeltaBuilder& builder, const std::string& name,
           const std::vector<std::int64_t>& shape, std::uint64_t seed) const {
    DeltaEntry e;
    e.name = name;
    e.shape = shape;
    e.group = decay_group(builder, shape.size());
    at::Tensor initial = at::zeros(shape, at::kFloat);
    if (shape.size() == 2) {
      fill_normal(initial.mutable_data_ptr<float>(), initial.numel(), seed,
                  name, static_cast<float>(init_std_));
    }
    builder.add(std::move(e), std::move(initial));
  }

  std::string id_;
  AdapterPlace place_;
  Config config_;
  Activation activation_;
  double init_std_;
  bool cross_;
  std::int64_t bottleneck_ = 0;
  double factor_ = 0;
};

}  // namespace

std::unique_ptr<Method> make_adapter_method(std::string_view id,
                                            AdapterPlace place,
                                            const Config& config) {
  Config c = config;
  if (c.at("bottleneck").is_null() && c.at("reduction_factor").is_null()) {
    if (place == AdapterPlace::kEverySublayer) {
      c["bottleneck"] = 64;
    } else {
      c["reduction_factor"] = 16.0;
    }
  }
  return std::make_unique<AdapterMethod>(id, place, std::move(c));
}

}  // namespace thinwire
