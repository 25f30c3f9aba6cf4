// Full fine-tuning: every tensor of the backbone and the task head trains.
// The upper bound the other methods are measured against; also the dense form
// that a FISH mask's warm-up uses.
#include "peft/method_tools.h"

namespace thinwire {
namespace {

constexpr Field kFields[] = {
    {"exclude", FieldType::kStrings, "~",
     "tensors that stay frozen: parts of names, or globs over whole names"},
};

class Full : public Method {
 public:
  explicit Full(Config config)
      : config_(std::move(config)),
        exclude_(string_list(config_.at("exclude"))) {}

  std::string_view id() const override { return "full"; }

  void declare(DeltaBuilder& builder, const Backbone& backbone,
               const DeclareContext&) override {
    builder.method_config(config_text(id(), config_));
    check_patterns(id(), backbone, exclude_);
    const Parameters& p = backbone.parameters();
    for (int i = 0; i < p.size(); ++i) {
      if (p.slot(i).buffer || matches_any(p.slot(i).name, exclude_)) continue;
      if (p.slot(i).head && builder.trains(p.slot(i).name)) continue;
      declare_slot(builder, backbone, i);
    }
  }

  void attach(Backbone&, const Delta&) override {}

  void merge(const Backbone& backbone, const Delta& delta,
             MergedSlots& slots) const override {
    merge_targets(slots, backbone, delta);
  }
  bool mergeable() const override { return true; }

 private:
  Config config_;
  std::vector<std::string> exclude_;
};

}  // namespace

const MethodInfo& full_method() {
  static const MethodInfo kInfo = {
      "full", "full fine-tuning: every tensor trains", kFields,
      [](const Config& config) -> std::unique_ptr<Method> {
        return std::make_unique<Full>(config);
      }};
  return kInfo;
}

}  // namespace thinwire
