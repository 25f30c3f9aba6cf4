#include "dist/declare.h"

#include <algorithm>
#include <cstdint>

#include "base/error.h"
#include "base/heap.h"

namespace thinwire {

Delta declare_delta(Backbone& backbone,
                    std::vector<std::unique_ptr<Method>>& methods,
                    const DeclareContext& context) {
  DeltaBuilder builder;
  for (const auto& method : methods) {
    method->declare(builder, backbone, context);
  }
  Delta delta = builder.build();
  if (context.scoring != nullptr) give_back_freed_memory();  // the scores'
  if (delta.trainable() == 0) {
    fail<UsageError>(
        "peft: nothing trains; list at least one method with a trainable "
        "number");
  }
  return delta;
}

void place_delta(const Backbone& backbone, Delta& delta, bool apart) {
  const at::Device device = backbone.parameters().device();
  if (apart || !device.is_cpu()) delta.place(device);
}

void attach_delta(Backbone& backbone,
                  std::vector<std::unique_ptr<Method>>& methods,
                  const Delta& delta) {
  backbone.detach_all();
  backbone.parameters().freeze_all();
  delta.bind(backbone.parameters());
  for (const auto& method : methods) method->attach(backbone, delta);
}

std::int64_t phase_end(const std::vector<std::unique_ptr<Method>>& methods,
                       std::int64_t step) {
  std::int64_t end = INT64_MAX;
  for (const auto& method : methods) {
    const auto boundary = method->next_boundary(step);
    if (!boundary) continue;
    THINWIRE_ASSERT(*boundary > step, "{}: boundary {} after step {}",
                    method->id(), *boundary, step);
    end = std::min(end, *boundary);
  }
  return end;
}

}  // namespace thinwire
