// Mix-and-match adapters: prefixes of 30 at every attention, and scaled
// parallel adapters of 512 (s = 4; the paper's classifiers: 16, 16 and 2)
// beside every feed-forward sublayer. He et al. 2022, "Towards a unified view
// of parameter-efficient transfer learning", sec. 4.6. The two are
// prefix_tuning.cpp's and parallel_adapter.cpp's, with their entries; a run
// that wants more of their settings lists both. Not the backbone at step 0:
// prefixes are not.
#include "base/error.h"
#include "peft/method_tools.h"

namespace thinwire {
namespace {

constexpr Field kFields[] = {
    {"length", FieldType::kInt, "30", "keys and values per attention"},
    {"reparametrise", FieldType::kBool, "true",
     "train a perceptron that makes them; false: themselves"},
    {"prefix_bottleneck", FieldType::kInt, "800", "width of that perceptron"},
    {"bottleneck", FieldType::kInt, "512", "width of the adapters"},
    {"scaling", FieldType::kFloat, "4", "s, of the adapters' output"},
    {"dropout", FieldType::kFloat, "0", "behind the adapters' non-linearity"},
    {"train_head", FieldType::kBool, "true", "the task head trains too"},
};

class Mam : public Method {
 public:
  explicit Mam(Config config) : config_(std::move(config)) {
    for (const char* key : {"length", "prefix_bottleneck", "bottleneck"}) {
      if (config_.at(key).get<std::int64_t>() >= 1) continue;
      fail<UsageError>("mam: {} must be at least 1, got {}", key,
                       config_.at(key).dump());
    }
    prefixes_ = part("prefix_tuning", {{"length", "length"},
                                       {"reparametrise", "reparametrise"},
                                       {"bottleneck", "prefix_bottleneck"}});
    adapters_ = part("parallel_adapter", {{"bottleneck", "bottleneck"},
                                          {"scaling", "scaling"},
                                          {"dropout", "dropout"}});
  }

  std::string_view id() const override { return "mam"; }

  void declare(DeltaBuilder& builder, const Backbone& backbone,
               const DeclareContext& context) override {
    builder.method_config(config_text(id(), config_));
    builder.parts([&] {
      prefixes_->declare(builder, backbone, context);
      adapters_->declare(builder, backbone, context);
    });
    if (config_.at("train_head").get<bool>()) declare_head(builder, backbone);
  }

  void attach(Backbone& backbone, const Delta& delta) override {
    prefixes_->attach(backbone, delta);
    adapters_->attach(backbone, delta);
  }

  void merge(const Backbone&, const Delta&, MergedSlots&) const override {
    fail<UsageError>(
        "mam: prefixes and adapters are no change of weights and cannot be "
        "merged");
  }

 private:
  // keys: of the part, and those here that give their values.
  std::unique_ptr<Method> part(
      std::string_view method,
      const std::vector<std::pair<const char*, const char*>>& keys) const {
    Config config = {{"train_head", false}};
    for (const auto& [theirs, ours] : keys) config[theirs] = config_.at(ours);
    return make_method(method, config);
  }

  Config config_;
  std::unique_ptr<Method> prefixes_, adapters_;
};

}  // namespace

const MethodInfo& mam_method() {
  static const MethodInfo kInfo = {
      "mam",
      "prefixes at attention, parallel adapters at the feed-forward (He et al. "
      "2022)",
      kFields, [](const Config& config) -> std::unique_ptr<Method> {
        return std::make_unique<Mam>(config);
      }};
  return kInfo;
}

}  // namespace thinwire
