// LoRA: y = W x + b + s B (A dropout(x)), W and b frozen.
// Hu et al. 2022, "LoRA: Low-rank adaptation of large language models", sec. 4;
// scale s = alpha / r, or alpha / sqrt(r) when rank-stabilised (Kalajdzievski
// 2023, "A rank stabilization scaling factor for fine-tuning with LoRA").
// Differs from the paper's text, as the reference code does: A starts uniform
// in (-1/sqrt(d_in), 1/sqrt(d_in)), not Gaussian. B starts 0, so step 0 equals
// the backbone. Entry names are HF peft's on-disk names, and so is the form of
// a fused projection (GPT-2's c_attn): one A and one B [3 d, r] for queries,
// keys and values.
// Shapes: A [r, d_in], B [d_out, r], x [T, d_in].
#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>

#include <cmath>
#include <regex>

#include "base/error.h"
#include "base/random.h"
#include "peft/input_dropout.h"
#include "peft/low_rank_path.h"
#include "peft/method_tools.h"

namespace thinwire {
namespace {

constexpr Field kFields[] = {
    {"r", FieldType::kInt, "8", "rank"},
    {"alpha", FieldType::kFloat, "16", "scale s = alpha / r"},
    {"dropout", FieldType::kFloat, "0", "on the input of A only"},
    {"target_modules", FieldType::kStrings, "~",
     "linear modules by the end of their names, all-linear, or one regular "
     "expression; default: query and value projections, GPT-2's c_attn"},
    {"use_rslora", FieldType::kBool, "false", "s = alpha / sqrt(r)"},
    {"rank_pattern", FieldType::kStrings, "~",
     "r of some modules: MODULE=R, MODULE a regular expression for the end of "
     "the name"},
    {"alpha_pattern", FieldType::kStrings, "~", "likewise, MODULE=ALPHA"},
    {"train_head", FieldType::kBool, "true", "the task head trains too"},
};

struct Pattern {
  std::regex name;
  double value;
};

std::vector<Pattern> parse_patterns(std::string_view key, const Config& list) {
  std::vector<Pattern> out;
  for (const std::string& item : string_list(list)) {
    const std::size_t equals = item.rfind('=');
    char* end = nullptr;
    const double value = equals == std::string::npos
                             ? 0
                             : std::strtod(item.c_str() + equals + 1, &end);
    if (end == nullptr || *end != '\0' || end == item.c_str() + equals + 1 ||
        !(value > 0)) {
      fail<UsageError>("lora: {} must be MODULE=NUMBER, got '{}'", key, item);
    }
    try {
      out.push_back(
          {std::regex("(.*\\.)?(" + item.substr(0, equals) + ")"), value});
    } catch (const std::regex_error& error) {
      fail<UsageError>("lora: {} '{}' is no regular expression: {}", key, item,
                       error.what());
    }
  }
  return out;
}

double pattern_value(const std::vector<Pattern>& patterns,
                     const std::string& module, double otherwise) {
  for (const Pattern& p : patterns) {
    if (std::regex_match(module, p.name)) return p.value;
  }
  return otherwise;
}

std::string entry_name(const Site& site, char factor) {
  return fmt::format("base_model.model.{}.lora_{}.weight", site.name, factor);
}

class Lora : public Method {
 public:
  explicit Lora(Config config)
      : config_(std::move(config)),
        r_(config_.at("r").get<std::int64_t>()),
        alpha_(config_.at("alpha").get<double>()),
        dropout_(checked_dropout(config_.at("dropout").get<double>(), "lora")),
        rslora_(config_.at("use_rslora").get<bool>()),
        targets_(string_list(config_.at("target_modules"))),
        rank_pattern_(
            parse_patterns("rank_pattern", config_.at("rank_pattern"))),
        alpha_pattern_(
            parse_patterns("alpha_pattern", config_.at("alpha_pattern"))) {
    if (r_ < 1 || r_ > 65536) {
      fail<UsageError>("lora: r must be in [1, 65536], got {}", r_);
    }
    if (!(alpha_ > 0) || !std::isfinite(alpha_)) {
      fail<UsageError>("lora: alpha must be positive, got {}", alpha_);
    }
  }

  std::string_view id() const override { return "lora"; }

  void declare(DeltaBuilder& builder, const Backbone& backbone,
               const DeclareContext& context) override {
    builder.method_config(config_text(id(), config_));
    const int group = builder.group({.name = "default"});
    for (const int number : sites(backbone)) {
      const Site& site = backbone.sites()[static_cast<std::size_t>(number)];
      const std::int64_t r = rank(site);
      DeltaEntry a;
      a.name = entry_name(site, 'A');
      a.shape = {r, site.d_in};
      a.group = group;
      at::Tensor initial = at::empty(a.shape, at::kFloat);
      const auto bound =
          static_cast<float>(1 / std::sqrt(static_cast<double>(site.d_in)));
      fill_uniform(initial.mutable_data_ptr<float>(), initial.numel(),
                   context.seed, a.name, -bound, bound);
      builder.add(std::move(a), std::move(initial));
      DeltaEntry b;
      b.name = entry_name(site, 'B');
      b.shape = {site.d_out, r};
      b.group = group;
      builder.add(b, at::zeros(b.shape, at::kFloat));
    }
    if (config_.at("train_head").get<bool>()) declare_head(builder, backbone);
  }

  void attach(Backbone& backbone, const Delta& delta) override {
    for (const int number : sites(backbone)) {
      const Site& site = backbone.sites()[static_cast<std::size_t>(number)];
      backbone.attach(
          number, std::make_shared<LowRankPath>(
                      delta.leaf(entry_name(site, 'A')),
                      delta.leaf(entry_name(site, 'B')), scale(site), dropout_,
                      site.name + ".lora_dropout"));
    }
  }

  void merge(const Backbone& backbone, const Delta& delta,
             MergedSlots& slots) const override {
    merge_targets(slots, backbone, delta);
    for (const int number : sites(backbone)) {
      const Site& site = backbone.sites()[static_cast<std::size_t>(number)];
      const at::Tensor a = delta.leaf(entry_name(site, 'A')).detach();
      const at::Tensor b = delta.leaf(entry_name(site, 'B')).detach();
      own_weight(slots, backbone, site, id()).add_(b.matmul(a), scale(site));
    }
  }
  bool mergeable() const override { return true; }

 private:
  std::int64_t rank(const Site& site) const {
    return static_cast<std::int64_t>(
        pattern_value(rank_pattern_, site.name, static_cast<double>(r_)));
  }
  double scale(const Site& site) const {
    const double alpha = pattern_value(alpha_pattern_, site.name, alpha_);
    const auto r = static_cast<double>(rank(site));
    return alpha / (rslora_ ? std::sqrt(r) : r);
  }

  std::vector<int> sites(const Backbone& backbone) const {
    return target_sites(backbone, targets_, id());
  }

  Config config_;
  std::int64_t r_;
  double alpha_, dropout_;
  bool rslora_;
  std::vector<std::string> targets_;
  std::vector<Pattern> rank_pattern_, alpha_pattern_;
};

}  // namespace

const MethodInfo& lora_method() {
  static const MethodInfo kInfo = {
      "lora", "low-rank updates of linear layers (Hu et al. 2022)", kFields,
      [](const Config& config) -> std::unique_ptr<Method> {
        return std::make_unique<Lora>(config);
      }};
  return kInfo;
}

}  // namespace thinwire
