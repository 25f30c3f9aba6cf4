// What a config key means. A method, task or section lists its keys so; from
// the list come --help-config, the defaults, and the refusal of unknown keys
// with file:line and the nearest known one (launch/config.h).
#pragma once

#include <string_view>

namespace thinwire {

// kMethod: a method with its config, `{method: ID, …}`; its default is JSON.
enum class FieldType {
  kBool,
  kInt,
  kFloat,
  kString,
  kStrings,
  kInts,
  kFloats,
  kMethod
};

struct Field {
  std::string_view name;
  FieldType type;
  std::string_view default_text;  // as YAML; "~" is unset, "!" is required
  std::string_view help;          // one line, with the unit
};

}  // namespace thinwire
