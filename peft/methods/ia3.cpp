// (IA)^3: keys, values and the inner layer of the feed-forward sublayer are
// multiplied by vectors; nothing else changes.
// Liu et al. 2022, "Few-shot parameter-efficient fine-tuning is better and
// cheaper than in-context learning", sec. 3.3. The vectors start at 1, so step
// 0 equals the backbone.
// The feed-forward vector scales what the second layer reads, as HF peft has
// it; for T5 1.1 the reference code scales what the gate is multiplied with,
// which is the same function. The default targets are the paper's (peft's for
// BERT and GPT-2 also catch other layers, for BART queries in place of keys).
// Entry names and shapes are peft's.
// Shapes: l [d_out, 1], or [1, d_in] for modules of feedforward_modules. Where
// queries, keys and values are one projection (GPT-2's c_attn), the default is
// l [2 d_out / 3, 1] for keys and values, the last two thirds of peft's vector,
// whose first third then is 1; named as a target the module has all of it.
#include <ATen/ops/cat.h>
#include <ATen/ops/ones.h>

#include <algorithm>

#include "base/error.h"
#include "peft/method_tools.h"

namespace thinwire {
namespace {

constexpr Field kFields[] = {
    {"target_modules", FieldType::kStrings, "~",
     "linear modules by the end of their names, or one regular expression; "
     "default: keys, values and the feed-forward's second layer"},
    {"feedforward_modules", FieldType::kStrings, "~",
     "those of them whose input is scaled, not their output"},
    {"train_head", FieldType::kBool, "true", "the task head trains too"},
};

std::string entry_name(const Site& site) {
  return "base_model.model." + site.name + ".ia3_l";
}

struct Target {
  int site;
  bool input;              // is scaled, not the output
  std::int64_t first = 0;  // of the outputs that are scaled
};

class Scale : public LinearAttachment {
 public:
  Scale(at::Tensor l, const Target& target)
      : l_(std::move(l)), input_(target.input) {
    if (target.first > 0) before_ = at::ones({target.first}, l_.options());
  }
  at::Tensor scale_in(const ForwardContext&) override {
    return input_ ? l_.view({-1}) : at::Tensor();
  }
  at::Tensor scale_out(const ForwardContext&) override {
    if (input_) return {};
    const at::Tensor l = l_.view({-1});
    return before_.defined() ? at::cat({before_, l}) : l;
  }

 private:
  at::Tensor l_, before_;  // before_: of outputs that stay as they are
  bool input_;
};

// The paper's own: which linear layers make keys, values and the feed-forward
// sublayer's output is told by their roles and names.
std::vector<Target> usual_targets(const Backbone& backbone) {
  std::vector<Target> out;
  for (std::size_t i = 0; i < backbone.sites().size(); ++i) {
    const Site& site = backbone.sites()[i];
    if (site.kind != SiteKind::kLinear) continue;
    const std::string last = site.name.substr(site.name.rfind('.') + 1);
    const bool attention =
        site.role == Role::kSelfAttention || site.role == Role::kCrossAttention;
    const bool key_or_value =
        attention && (last == "k" || last == "v" || last == "key" ||
                      last == "value" || last == "k_proj" || last == "v_proj");
    const bool second = site.role == Role::kFeedForward &&
                        site.d_out == backbone.config().d_model &&
                        (last == "wo" || last == "fc2" || last == "c_proj" ||
                         site.name.ends_with("output.dense"));
    const bool all_three = attention && site.fused == 3;
    if (key_or_value || second || all_three) {
      out.push_back({static_cast<int>(i), second,
                     all_three ? site.d_out / site.fused : 0});
    }
  }
  return out;
}

class Ia3 : public Method {
 public:
  explicit Ia3(Config config)
      : config_(std::move(config)),
        targets_(string_list(config_.at("target_modules"))),
        feed_forward_(string_list(config_.at("feedforward_modules"))) {
    if (targets_.empty() && !feed_forward_.empty()) {
      fail<UsageError>(
          "ia3: feedforward_modules names some of target_modules; give both");
    }
  }

  std::string_view id() const override { return "ia3"; }

  void declare(DeltaBuilder& builder, const Backbone& backbone,
               const DeclareContext&) override {
    builder.method_config(config_text(id(), config_));
    for (const Target& t : targets(backbone)) {
      const Site& site = backbone.sites()[static_cast<std::size_t>(t.site)];
      const std::vector<std::int64_t> shape =
          t.input ? std::vector<std::int64_t>{1, site.d_in}
                  : std::vector<std::int64_t>{site.d_out - t.first, 1};
      // Decay would pull them to 0, which is not where they start.
      declare_dense(builder, entry_name(site), at::ones(shape, at::kFloat),
                    decay_group(builder, 1));
    }
    if (config_.at("train_head").get<bool>()) declare_head(builder, backbone);
  }

  void attach(Backbone& backbone, const Delta& delta) override {
    for (const Target& t : targets(backbone)) {
      const Site& site = backbone.sites()[static_cast<std::size_t>(t.site)];
      backbone.attach(t.site,
                      std::make_shared<Scale>(delta.leaf(entry_name(site)), t));
    }
  }

  void merge(const Backbone& backbone, const Delta& delta,
             MergedSlots& slots) const override {
    merge_targets(slots, backbone, delta);
    for (const Target& t : targets(backbone)) {
      const Site& site = backbone.sites()[static_cast<std::size_t>(t.site)];
      const at::Tensor l = delta.leaf(entry_name(site)).detach();
      const auto scaled = [&](const at::Tensor& x) {
        return t.input ? x : x.narrow(0, t.first, site.d_out - t.first);
      };
      scaled(own_weight(slots, backbone, site, id())).mul_(l);
      if (site.bias >= 0 && !t.input) {
        scaled(merged_weight(slots, backbone, site.bias)).mul_(l.view({-1}));
      }
    }
  }
  bool mergeable() const override { return true; }

 private:
  std::vector<Target> targets(const Backbone& backbone) const {
    if (targets_.empty()) {
      std::vector<Target> usual = usual_targets(backbone);
      if (usual.empty()) {
        fail<UsageError>("ia3: name this {}'s target_modules",
                         backbone.config().architecture);
      }
      return usual;
    }
    std::vector<int> inputs;
    if (!feed_forward_.empty()) {
      inputs = match_linear_sites(backbone, feed_forward_, "ia3");
    }
    std::vector<Target> out;
    for (const int site : match_linear_sites(backbone, targets_, "ia3")) {
      const bool input = std::ranges::find(inputs, site) != inputs.end();
      out.push_back({site, input});
      if (input) std::erase(inputs, site);
    }
    if (!inputs.empty()) {
      fail<UsageError>(
          "ia3: {} is of feedforward_modules but not of target_modules",
          backbone.sites()[static_cast<std::size_t>(inputs.front())].name);
    }
    return out;
  }

  Config config_;
  std::vector<std::string> targets_, feed_forward_;
};

}  // namespace

const MethodInfo& ia3_method() {
  static const MethodInfo kInfo = {
      "ia3", "scales of keys, values and feed-forwards (Liu et al. 2022)",
      kFields, [](const Config& config) -> std::unique_ptr<Method> {
        return std::make_unique<Ia3>(config);
      }};
  return kInfo;
}

}  // namespace thinwire
