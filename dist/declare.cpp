#include "dist/declare.h"

#include <fmt/core.h>

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

Stretch stretch_of(const std::vector<std::unique_ptr<Method>>& methods,
                   std::int64_t step, std::int64_t steps) {
  Stretch stretch{0, steps};
  for (const auto& method : methods) {
    for (auto b = method->next_rewind(0); b; b = method->next_rewind(*b)) {
      if (*b <= step) {
        stretch.begin = std::max(stretch.begin, *b);
      } else {
        stretch.end = std::min(stretch.end, *b);
        break;
      }
    }
  }
  return stretch;
}

void check_rewinds(const std::vector<std::unique_ptr<Method>>& methods,
                   std::int64_t steps) {
  for (const auto& method : methods) {
    const auto boundary = method->next_rewind(0);
    if (!boundary || *boundary < steps) continue;
    fail<UsageError>(
        "{}: its first phase ends at step {}, which leaves none of the run's "
        "{} to train what it chooses; shorten it or raise train.steps",
        method->id(), *boundary, steps);
  }
  for (const auto& method : methods) {
    const auto rewind = method->next_rewind(0);
    if (!rewind) continue;
    for (const auto& other : methods) {
      const auto boundary = other->next_boundary(0);
      if (!boundary || *boundary >= *rewind) continue;
      fail<UsageError>(
          "{} returns to the start at step {}, and {} begins a phase at step "
          "{}, after which the start is lost; let that come at step {} or "
          "later",
          method->id(), *rewind, other->id(), *boundary, *rewind);
    }
  }
}

std::string phases_out_of_reach(
    const std::vector<std::unique_ptr<Method>>& methods, std::int64_t steps) {
  std::string out;
  for (const auto& method : methods) {
    const auto boundary = method->next_boundary(0);
    if (!boundary || *boundary < steps) continue;
    out += fmt::format(
        "{}{}: its next phase would begin after step {}, and the run has {}",
        out.empty() ? "" : "; ", method->id(), *boundary, steps);
  }
  return out;
}

}  // namespace thinwire
