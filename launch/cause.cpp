#include "launch/cause.h"

#include <new>

#include "base/error.h"
#include "comm/watch.h"

namespace thinwire {

std::string_view cause_of(const std::exception& error) {
  const std::string_view text = error.what();
  const auto says = [&](std::string_view words) {
    return text.find(words) != std::string_view::npos;
  };
  if (dynamic_cast<const CommError*>(&error) != nullptr) {
    const Watch* watch = Watch::current();
    if (watch != nullptr && watch->failure() != nullptr) return watch->cause();
    if (says("do not make the same calls")) return "DESYNC";
    if (says("differs")) return "DISAGREEMENT";
    if (says("timed out") || says("timeout")) return "STALLED";
    return "COMM";
  }
  if (dynamic_cast<const UsageError*>(&error) != nullptr) return "USAGE";
  if (dynamic_cast<const IoError*>(&error) != nullptr) return "IO";
  if (dynamic_cast<const InternalError*>(&error) != nullptr) return "INTERNAL";
  if (dynamic_cast<const std::bad_alloc*>(&error) != nullptr) {
    return "OUT_OF_MEMORY";
  }
  return says("were not finite") ? "NON_FINITE" : "RUN";
}

}  // namespace thinwire
