// A structure: the modules that are named train, and nothing else does.
// Hu et al. 2022, "Sparse structure search for delta tuning" (S3PET, S3Delta);
// the modules are peft/delta_modules.h's. `thinwire search` finds which of them
// are worth a budget of numbers and writes a config that names them. Where none
// is named, all of the paper's search space train.
#include <algorithm>
#include <vector>

#include "base/error.h"
#include "peft/delta_modules.h"
#include "peft/match.h"
#include "peft/method_tools.h"
#include "peft/structure.h"

namespace thinwire {
namespace {

constexpr Field kFields[] = {
    {"lora", FieldType::kStrings, "~",
     "linear modules that get a low-rank path, by the end of their names, or "
     "one regular expression"},
    {"adapter", FieldType::kStrings, "~",
     "likewise: sublayers that get a low-rank adapter behind them"},
    {"bias", FieldType::kStrings, "~",
     "likewise: linear modules and norms whose bias trains, or that get one"},
    {"gain", FieldType::kStrings, "~",
     "likewise: norms whose weight trains; no list of the four: the search "
     "space"},
    {"r", FieldType::kInt, "1", "rank of lora"},
    {"alpha", FieldType::kFloat, "16", "of lora: scale alpha / r"},
    {"reduction_factor", FieldType::kFloat, "32",
     "of adapters: inner width = model width / factor"},
    {"adapter_rank", FieldType::kInt, "1", "of both maps of an adapter"},
    {"non_linearity", FieldType::kString, "gelu_new",
     "of adapters: gelu, gelu_new, relu, sigmoid, swish or tanh"},
    {"found_on", FieldType::kString, "~",
     "shape of the model that the names belong to; another is refused"},
    {"train_head", FieldType::kBool, "true", "the task head trains too"},
};

ModuleSizes sizes_of(const Config& config) {
  return {.r = config.at("r").get<std::int64_t>(),
          .alpha = config.at("alpha").get<double>(),
          .reduction_factor = config.at("reduction_factor").get<double>(),
          .adapter_rank = config.at("adapter_rank").get<std::int64_t>(),
          .non_linearity = config.at("non_linearity").get<std::string>()};
}

// Of the backbone that a model was cut out of, by its layers' numbers there.
struct LayersOf {
  std::vector<int> encoder, decoder;

  std::string name(const Site& site) const {
    const auto& layers =
        site.stack == Stack::kEncoder || decoder.empty() ? encoder : decoder;
    if (site.layer < 0) return site.name;
    const std::string here = fmt::format(".{}.", site.layer);
    const std::size_t at = site.name.find(here);
    THINWIRE_ASSERT(at != std::string::npos, "{} has no number", site.name);
    return site.name.substr(0, at) +
           fmt::format(".{}.",
                       layers.at(static_cast<std::size_t>(site.layer))) +
           site.name.substr(at + here.size());
  }
};

class SparseStructure : public StructureMethod {
 public:
  explicit SparseStructure(Config config)
      : config_(std::move(config)), modules_(kId, sizes_of(config_)) {}
  SparseStructure(Config config, LayersOf layers)
      : SparseStructure(std::move(config)) {
    layers_ = std::move(layers);
  }

  std::string_view id() const override { return kId; }
  const Config& config() const override { return config_; }
  const ModuleFactory& factory() const override { return modules_; }

  std::vector<DeltaModule> modules(const Backbone& backbone) const override {
    check_shape(backbone);
    std::vector<DeltaModule> out;
    for (const ModuleKind kind : kModuleKinds) {
      for (const int site : sites(backbone, kind)) out.push_back({kind, site});
    }
    return out;
  }

  void declare(DeltaBuilder& builder, const Backbone& backbone,
               const DeclareContext& context) override {
    builder.method_config(config_text(id(), config_));
    for (const DeltaModule& m : modules(backbone)) {
      modules_.declare(builder, backbone, m, context.seed, /*gated=*/false);
    }
    if (config_.at("train_head").get<bool>()) declare_head(builder, backbone);
  }

  void attach(Backbone& backbone, const Delta& delta) override {
    for (const DeltaModule& m : modules(backbone)) {
      modules_.attach(backbone, delta, m);
    }
  }

  std::unique_ptr<Method> on_layers(
      std::span<const int> encoder,
      std::span<const int> decoder) const override {
    return std::make_unique<SparseStructure>(
        config_, LayersOf{{encoder.begin(), encoder.end()},
                          {decoder.begin(), decoder.end()}});
  }

  void merge(const Backbone& backbone, const Delta& delta,
             MergedSlots& slots) const override {
    merge_targets(slots, backbone, delta);
    for (const DeltaModule& m : modules(backbone)) {
      modules_.merge(backbone, delta, m, slots);
    }
  }
  // A bias may have no tensor, which merge() finds.
  bool mergeable() const override {
    return !all_kinds() && !named(ModuleKind::kAdapter);
  }

 private:
  static constexpr std::string_view kId = "sparse_structure";

  bool named(ModuleKind kind) const {
    return !config_.at(std::string(name_of(kind))).is_null();
  }
  bool all_kinds() const {
    return std::ranges::none_of(kModuleKinds,
                                [&](ModuleKind k) { return named(k); });
  }

  void check_shape(const Backbone& backbone) const {
    const Config& found_on = config_.at("found_on");
    if (found_on.is_null() || layers_) return;
    const std::string shape = shape_of(backbone);
    if (found_on != shape) {
      fail<UsageError>(
          "sparse_structure: it was found on {}, this model is {}; search "
          "anew, or "
          "leave out found_on",
          found_on.get<std::string>(), shape);
    }
  }

  std::vector<int> sites(const Backbone& backbone, ModuleKind kind) const {
    const std::string key(name_of(kind));
    if (all_kinds()) {
      std::vector<int> out;
      for (std::size_t i = 0; i < backbone.sites().size(); ++i) {
        if (in_space(kind, backbone.sites()[i])) {
          out.push_back(static_cast<int>(i));
        }
      }
      return out;
    }
    if (!named(kind)) return {};
    SiteQuery query{.method = kId,
                    .key = key,
                    .what = sites_of(kind),
                    .takes = [kind](const Site& s) { return takes(kind, s); }};
    if (layers_) {
      query.called = [this](const Site& s) { return layers_->name(s); };
      query.some = true;
    }
    return match_sites(backbone, string_list(config_.at(key)), query);
  }

  Config config_;
  ModuleFactory modules_;
  std::optional<LayersOf> layers_;
};

}  // namespace

std::string shape_of(const Backbone& backbone) {
  const ModelConfig& c = backbone.config();
  const std::string layers =
      c.decoder_layers > 0 ? fmt::format("{} + {}", c.layers, c.decoder_layers)
                           : fmt::format("{}", c.layers);
  return fmt::format("{}, {} layers of width {}", c.architecture, layers,
                     c.d_model);
}

const MethodInfo& sparse_structure_method() {
  static const MethodInfo kInfo = {
      "sparse_structure", "modules that a search has chosen (Hu et al. 2022)",
      kFields, [](const Config& config) -> std::unique_ptr<Method> {
        return std::make_unique<SparseStructure>(config);
      }};
  return kInfo;
}

}  // namespace thinwire
