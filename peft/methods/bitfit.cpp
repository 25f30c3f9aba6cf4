// BitFit: the biases train, every matrix and gain stays.
// Ben-Zaken, Ravfogel & Goldberg 2022, "BitFit: Simple parameter-efficient
// fine-tuning for transformer-based masked language-models", sec. 3; the terms
// are the reference code's, so `output` also names the attention's output bias
// and `output_layernorm` the attention's. The pooler's bias and the head go
// with every selection, as there.
// Differs: the key biases can be left out (softmax does not see them: their
// gradient is rounding noise), and a model without biases (T5) can be given
// some, starting at 0; step 0 equals the backbone.
#include <ATen/ops/zeros.h>

#include <algorithm>

#include "base/error.h"
#include "base/nearest.h"
#include "peft/added_bias.h"
#include "peft/method_tools.h"

namespace thinwire {
namespace {

constexpr Field kFields[] = {
    {"terms", FieldType::kStrings, "[all]",
     "all, or some of query, key, value, intermediate, output, "
     "output_layernorm, attention_layernorm"},
    {"exclude_key", FieldType::kBool, "false",
     "leave out key biases, which cannot change any output"},
    {"train_pooler", FieldType::kBool, "true",
     "the pooler's bias trains, whatever the terms"},
    {"add_missing", FieldType::kBool, "false",
     "give linear layers without a bias one"},
    {"train_head", FieldType::kBool, "true", "the task head trains too"},
};

struct Term {
  const char* name;
  std::vector<std::string> parts;  // of a slot's name: BERT's, BART's
};
const std::vector<Term> kTerms = {
    {"all", {".bias"}},
    {"query", {"attention.self.query.bias", ".q_proj.bias"}},
    {"key", {"attention.self.key.bias", ".k_proj.bias"}},
    {"value", {"attention.self.value.bias", ".v_proj.bias"}},
    {"intermediate", {"intermediate.dense.bias", ".fc1.bias"}},
    {"output", {"output.dense.bias", ".out_proj.bias", ".fc2.bias"}},
    {"output_layernorm", {"output.LayerNorm.bias", "_layer_norm.bias"}},
    {"attention_layernorm",
     {"attention.output.LayerNorm.bias", "_attn_layer_norm.bias"}},
};

std::string added_name(const Site& site) { return site.name + ".bias"; }

class BitFit : public Method {
 public:
  explicit BitFit(Config config)
      : config_(std::move(config)),
        exclude_key_(config_.at("exclude_key").get<bool>()),
        pooler_(config_.at("train_pooler").get<bool>()),
        add_missing_(config_.at("add_missing").get<bool>()) {
    std::vector<std::string> known;
    for (const Term& t : kTerms) known.emplace_back(t.name);
    for (const std::string& term : string_list(config_.at("terms"))) {
      const auto it = std::ranges::find(kTerms, term, &Term::name);
      if (it == kTerms.end()) {
        fail<UsageError>("bitfit: term '{}' is unknown; choose from: {}", term,
                         list_nearest_first(term, known));
      }
      parts_.insert(parts_.end(), it->parts.begin(), it->parts.end());
    }
    if (parts_.empty()) fail<UsageError>("bitfit: terms is empty");
    if (add_missing_ && parts_ != std::vector<std::string>{".bias"}) {
      fail<UsageError>("bitfit: add_missing goes with terms: [all]");
    }
  }

  std::string_view id() const override { return "bitfit"; }

  void declare(DeltaBuilder& builder, const Backbone& backbone,
               const DeclareContext&) override {
    builder.method_config(config_text(id(), config_));
    const Parameters& p = backbone.parameters();
    int found = 0;
    for (int i = 0; i < p.size(); ++i) {
      if (!selected(p.slot(i))) continue;
      declare_slot(builder, backbone, i);
      ++found;
    }
    if (add_missing_) {
      for (const Site& site : backbone.sites()) {
        if (!lacks_bias(site)) continue;
        DeltaEntry e;
        e.name = added_name(site);
        e.shape = {site.d_out};
        e.group = decay_group(builder, 1);
        builder.add(e, at::zeros(e.shape, at::kFloat));
        ++found;
      }
    }
    if (found == 0) {
      fail<UsageError>(
          "bitfit: this {} has no biases to train; set add_missing: true to "
          "give its linear layers some",
          backbone.config().architecture);
    }
    if (config_.at("train_head").get<bool>()) declare_head(builder, backbone);
  }

  void attach(Backbone& backbone, const Delta& delta) override {
    if (!add_missing_) return;
    for (std::size_t i = 0; i < backbone.sites().size(); ++i) {
      const Site& site = backbone.sites()[i];
      if (!lacks_bias(site)) continue;
      backbone.attach(static_cast<int>(i), std::make_shared<AddedBias>(
                                               delta.leaf(added_name(site))));
    }
  }

  void merge(const Backbone& backbone, const Delta& delta,
             MergedSlots& slots) const override {
    if (add_missing_) {
      fail<UsageError>(
          "bitfit: added biases cannot be merged: this {} has no tensors for "
          "them",
          backbone.config().architecture);
    }
    merge_targets(slots, backbone, delta);
  }
  bool mergeable() const override { return !add_missing_; }

 private:
  bool selected(const Parameters::Slot& slot) const {
    const std::string& name = slot.name;
    if (slot.head || !name.ends_with(".bias")) return false;
    if (name.find("pooler") != std::string::npos) return pooler_;
    if (exclude_key_ &&
        (name.ends_with("self.key.bias") || name.ends_with(".k_proj.bias"))) {
      return false;
    }
    return std::any_of(parts_.begin(), parts_.end(), [&](const auto& part) {
      return name.find(part) != std::string::npos;
    });
  }

  static bool lacks_bias(const Site& site) {
    return site.kind == SiteKind::kLinear && site.bias < 0 &&
           site.role != Role::kHead;
  }

  Config config_;
  bool exclude_key_, pooler_, add_missing_;
  std::vector<std::string> parts_;
};

}  // namespace

const MethodInfo& bitfit_method() {
  static const MethodInfo kInfo = {
      "bitfit", "biases only (Ben-Zaken et al. 2022)", kFields,
      [](const Config& config) -> std::unique_ptr<Method> {
        return std::make_unique<BitFit>(config);
      }};
  return kInfo;
}

}  // namespace thinwire
