// Linear probing: the task head alone trains. The lower bound of every
// comparison.
#include "base/error.h"
#include "peft/method_tools.h"

namespace thinwire {
namespace {

class Head : public Method {
 public:
  explicit Head(Config config) : config_(std::move(config)) {}

  std::string_view id() const override { return "head"; }

  void declare(DeltaBuilder& builder, const Backbone& backbone,
               const DeclareContext&) override {
    builder.method_config(config_text(id(), config_));
    if (backbone.parameters().count(true) ==
        backbone.parameters().count(false)) {
      fail<UsageError>(
          "head: this task has no head of its own (it uses the model's output "
          "embedding); choose another method");
    }
    declare_head(builder, backbone);
  }

  void attach(Backbone&, const Delta&) override {}

  void merge(const Backbone& backbone, const Delta& delta,
             MergedSlots& slots) const override {
    merge_targets(slots, backbone, delta);
  }
  bool mergeable() const override { return true; }

 private:
  Config config_;
};

}  // namespace

const MethodInfo& head_method() {
  static const MethodInfo kInfo = {
      "head",
      "linear probing: the task head alone trains",
      {},
      [](const Config& config) -> std::unique_ptr<Method> {
        return std::make_unique<Head>(config);
      }};
  return kInfo;
}

}  // namespace thinwire
