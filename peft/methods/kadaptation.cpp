// KAdaptation: y = W x + b + b_l + s H^T x, H the sum over i < t of
// A_i (x) B_i, (x) the Kronecker product.
// He, Li, Zhang, Yang & Wang 2023, "Parameter-efficient model adaptation for
// vision transformers", sec. 4: A_i = a_i a'_i ("slow") shared by all layers, a
// set for each kind of target, B_i = u_i v_i ("fast") of each matrix. Kinds are
// told apart by what follows the layer's number in a module's name. The bias
// b_l, the scale and dropout on H are the released code's.
// Since a_i a'_i (x) u_i v_i = (a_i (x) u_i) (a'_i (x) v_i), H has rank t and
// is multiplied as two thin factors; only dropout on H itself needs it whole,
// once a pass, added to W.
// Differs from the released code, in which u and v both start at 0, so that no
// factor ever has a gradient (`init: released`): here v alone does, and step 0
// equals the backbone all the same. There values are changed by the queries'
// factors, and changes meet the heads without the transposition that queries
// and values went through; here each matrix has its own, as in the paper.
// Shapes: a, a' [t, t], u [t, d_in / t], v [t, d_out / t], b_l [d_out], x [T,
// d_in]. Numbers: 2 t^2 a kind, d_in + d_out a matrix, d_out a bias.
#include <ATen/ops/linear.h>
#include <ATen/ops/zeros.h>

#include <cmath>
#include <regex>
#include <set>

#include "base/error.h"
#include "ops/dropout.h"
#include "ops/layout.h"
#include "ops/linear.h"
#include "peft/input_dropout.h"
#include "peft/method_tools.h"

namespace thinwire {
namespace {

constexpr Field kFields[] = {
    {"t", FieldType::kInt, "32",
     "how many Kronecker products are summed; divides both widths"},
    {"scaling", FieldType::kFloat, "160", "s, of their sum"},
    {"dropout", FieldType::kFloat, "0",
     "of the sum's own numbers, anew each step; the released code's: 0.5"},
    {"bias", FieldType::kBool, "true",
     "the targets of one layer and width share a bias that trains"},
    {"init", FieldType::kString, "one_sided",
     "one_sided: u as Glorot's, v 0; released: u and v 0, as in the released "
     "code, where nothing but biases and the head ever moves"},
    {"rule_init", FieldType::kFloat, "0.01",
     "the shared factors start uniform between minus this and this"},
    {"target_modules", FieldType::kStrings, "~",
     "linear modules by the end of their names, all-linear, or one regular "
     "expression; default: query and value projections"},
    {"train_head", FieldType::kBool, "true", "the task head trains too"},
};

// attention.self.query of bert.encoder.layer.0.attention.self.query; the name
// itself where it has no number.
std::string kind_of(const Site& site) {
  static const std::regex kBehindNumbers(R"(.*\.\d+\.(.+))");
  std::smatch match;
  return std::regex_match(site.name, match, kBehindNumbers) ? match[1].str()
                                                            : site.name;
}

std::string rule_name(const Site& site, const char* side) {
  return fmt::format("kadaptation.{}.rule_{}", kind_of(site), side);
}
std::string factor_name(const Site& site, const char* side) {
  return fmt::format("{}.kadaptation_{}", site.name, side);
}
std::string bias_name(const Site& site) {
  return fmt::format("{}.kadaptation_bias.{}",
                     site.name.substr(0, site.name.rfind('.')), site.d_out);
}

// slow [t, t], fast [t, n] -> row i: slow_i (x) fast_i, [t, t n].
at::Tensor kronecker_rows(const at::Tensor& slow, const at::Tensor& fast) {
  const std::int64_t t = slow.size(0);
  return slow.unsqueeze(2)
      .mul(fast.unsqueeze(1))
      .reshape({t, t * fast.size(1)});
}

struct Factors {
  at::Tensor rule_left, left, rule_right, right;

  // s H^T = s b a.
  LowRank thin(double scaling) const {
    return {kronecker_rows(rule_left, left),
            kronecker_rows(rule_right, right).t().contiguous(), scaling};
  }
};

class KroneckerPath : public LinearAttachment {
 public:
  KroneckerPath(Factors factors, at::Tensor bias, double scaling,
                double dropout, const Site& site)
      : factors_(std::move(factors)),
        bias_(std::move(bias)),
        scaling_(scaling),
        dropout_(dropout),
        dropout_site_(dropout_site(site.name + ".kadaptation_dropout")),
        rows_(make_layout({site.d_out}, {0})) {}

  at::Tensor bias(const ForwardContext&) override { return bias_; }

  LowRank low_rank(const ForwardContext& ctx) override {
    if (drops(ctx)) return {};
    return factors_.thin(scaling_);
  }

  at::Tensor path(const at::Tensor& x, const ForwardContext& ctx) override {
    if (drops(ctx)) return {};
    const LowRank h = factors_.thin(scaling_);
    return at::linear(at::linear(x, h.a).mul(h.scale), h.b);
  }

  at::Tensor weight_change(const ForwardContext& ctx) override {
    if (!drops(ctx)) return {};
    const LowRank h = factors_.thin(scaling_);
    return dropout(h.b.matmul(h.a).mul(h.scale), dropout_,
                   ctx.dropout_key(dropout_site_), rows_);
  }

 private:
  bool drops(const ForwardContext& ctx) const {
    return ctx.training && dropout_ > 0;
  }

  Factors factors_;
  at::Tensor bias_;
  double scaling_, dropout_;
  std::uint32_t dropout_site_;
  Layout rows_;  // of H^T, for the counter
};

class KAdaptation : public Method {
 public:
  explicit KAdaptation(Config config)
      : config_(std::move(config)),
        t_(config_.at("t").get<std::int64_t>()),
        scaling_(config_.at("scaling").get<double>()),
        dropout_(checked_dropout(config_.at("dropout").get<double>(),
                                 "kadaptation")),
        bias_(config_.at("bias").get<bool>()),
        rule_init_(config_.at("rule_init").get<double>()),
        targets_(string_list(config_.at("target_modules"))) {
    if (t_ < 1 || t_ > 65536) {
      fail<UsageError>("kadaptation: t must be in [1, 65536], got {}", t_);
    }
    if (!std::isfinite(scaling_) || scaling_ == 0) {
      fail<UsageError>(
          "kadaptation: scaling must be a number other than 0, "
          "got {}",
          scaling_);
    }
    if (!std::isfinite(rule_init_) || rule_init_ <= 0) {
      fail<UsageError>(
          "kadaptation: rule_init must be positive, got {}; at 0 no factor "
          "would have a gradient",
          rule_init_);
    }
    const std::string init = config_.at("init").get<std::string>();
    if (init != "one_sided" && init != "released") {
      fail<UsageError>(
          "kadaptation: init must be one_sided or released, got '{}'", init);
    }
    one_sided_ = init == "one_sided";
  }

  std::string_view id() const override { return "kadaptation"; }

  void declare(DeltaBuilder& builder, const Backbone& backbone,
               const DeclareContext& context) override {
    builder.method_config(config_text(id(), config_));
    std::set<std::string> shared;
    for (const int number : sites(backbone)) {
      const Site& site = backbone.sites()[static_cast<std::size_t>(number)];
      check_widths(site);
      for (const char* side : {"left", "right"}) {
        const std::string rule = rule_name(site, side);
        if (!shared.insert(rule).second) continue;
        declare_dense(builder, rule,
                      uniform_values(rule, {t_, t_}, rule_init_, context.seed));
      }
      const std::int64_t in = site.d_in / t_, out = site.d_out / t_;
      const std::string left = factor_name(site, "left");
      declare_dense(builder, left,
                    one_sided_ ? uniform_values(
                                     left, {t_, in},
                                     std::sqrt(6 / static_cast<double>(in + 1)),
                                     context.seed)
                               : at::zeros({t_, in}, at::kFloat));
      declare_dense(builder, factor_name(site, "right"),
                    at::zeros({t_, out}, at::kFloat));
      if (bias_ && shared.insert(bias_name(site)).second) {
        declare_dense(builder, bias_name(site),
                      at::zeros({site.d_out}, at::kFloat));
      }
    }
    if (config_.at("train_head").get<bool>()) declare_head(builder, backbone);
  }

  void attach(Backbone& backbone, const Delta& delta) override {
    for (const int number : sites(backbone)) {
      const Site& site = backbone.sites()[static_cast<std::size_t>(number)];
      backbone.attach(number, std::make_shared<KroneckerPath>(
                                  factors(delta, site), bias(delta, site),
                                  scaling_, dropout_, site));
    }
  }

  void merge(const Backbone& backbone, const Delta& delta,
             MergedSlots& slots) const override {
    merge_targets(slots, backbone, delta);
    for (const int number : sites(backbone)) {
      const Site& site = backbone.sites()[static_cast<std::size_t>(number)];
      if (bias_ && site.bias < 0) {
        fail<UsageError>(
            "kadaptation: the bias of {} cannot be merged: this {} has no "
            "tensor for it (bias: false does without)",
            site.name, backbone.config().architecture);
      }
      const LowRank h = factors(delta, site).thin(scaling_);
      own_weight(slots, backbone, site, id())
          .add_(h.b.detach().matmul(h.a.detach()), h.scale);
      if (bias_) {
        merged_weight(slots, backbone, site.bias)
            .add_(bias(delta, site).detach());
      }
    }
  }
  bool mergeable() const override { return true; }

 private:
  void check_widths(const Site& site) const {
    for (const std::int64_t width : {site.d_in, site.d_out}) {
      if (width % t_ == 0) continue;
      fail<UsageError>(
          "kadaptation: t {} does not divide {}, a width of {}; choose one "
          "that divides every width of its targets",
          t_, width, site.name);
    }
  }

  static Factors factors(const Delta& delta, const Site& site) {
    return {delta.leaf(rule_name(site, "left")),
            delta.leaf(factor_name(site, "left")),
            delta.leaf(rule_name(site, "right")),
            delta.leaf(factor_name(site, "right"))};
  }
  at::Tensor bias(const Delta& delta, const Site& site) const {
    return bias_ ? delta.leaf(bias_name(site)) : at::Tensor();
  }

  std::vector<int> sites(const Backbone& backbone) const {
    return target_sites(backbone, targets_, id());
  }

  Config config_;
  std::int64_t t_;
  double scaling_, dropout_;
  bool bias_;
  double rule_init_;
  std::vector<std::string> targets_;
  bool one_sided_ = true;
};

}  // namespace

const MethodInfo& kadaptation_method() {
  static const MethodInfo kInfo = {
      "kadaptation", "sums of shared Kronecker products (He et al. 2023)",
      kFields, [](const Config& config) -> std::unique_ptr<Method> {
        return std::make_unique<KAdaptation>(config);
      }};
  return kInfo;
}

}  // namespace thinwire
