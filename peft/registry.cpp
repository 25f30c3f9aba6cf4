// An explicit table: static initialisers in a static library are dropped by
// the linker.
#include <algorithm>

#include "base/error.h"
#include "base/nearest.h"
#include "peft/field_values.h"
#include "peft/method.h"

namespace thinwire {

#define THINWIRE_METHOD(id) const MethodInfo& id##_method();
#include "peft/methods.def"
#undef THINWIRE_METHOD

std::span<const MethodInfo> methods() {
  static const MethodInfo kMethods[] = {
#define THINWIRE_METHOD(id) id##_method(),
#include "peft/methods.def"
#undef THINWIRE_METHOD
  };
  return kMethods;
}

const MethodInfo& find_method(std::string_view id) {
  std::vector<std::string> ids;
  for (const MethodInfo& info : methods()) {
    if (info.id == id) return info;
    ids.emplace_back(info.id);
  }
  fail<UsageError>("peft: method '{}' is unknown; choose one of: {}", id,
                   list_nearest_first(id, ids));
}

std::unique_ptr<Method> make_method(std::string_view id, const Config& given) {
  const MethodInfo& info = find_method(id);
  return info.make(complete_fields(info.id, info.fields, given));
}

}  // namespace thinwire
