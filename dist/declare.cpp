#include <algorithm>

#include "base/error.h"
#include "dist/evaluate.h"

namespace thinwire {

Delta declare_delta(Backbone& backbone,
                    std::vector<std::unique_ptr<Method>>& methods,
                    const DeclareContext& context) {
  DeltaBuilder builder;
  for (const auto& method : methods) {
    method->declare(builder, backbone, context);
  }
  Delta delta = builder.build();
  if (delta.trainable() == 0) {
    fail<UsageError>(
        "peft: nothing trains; list at least one method with a trainable "
        "number");
  }
  return delta;
}

void attach_delta(Backbone& backbone,
                  std::vector<std::unique_ptr<Method>>& methods,
                  const Delta& delta) {
  backbone.detach_all();
  backbone.parameters().freeze_all();
  delta.bind(backbone.parameters());
  for (const auto& method : methods) method->attach(backbone, delta);
}

}  // namespace thinwire
