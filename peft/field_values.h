// A config against the list of its fields.
#pragma once

#include <nlohmann/json.hpp>
#include <span>
#include <string_view>

#include "base/field.h"

namespace thinwire {

// `given` with defaults filled in, in the order of the fields, every value of
// its field's type: null where unset, whole numbers for kInt, floating ones for
// kFloat, arrays for lists (a single item given for a list is a list of one).
// A key `method` that repeats `owner` is dropped. Throws UsageError: an unknown
// key (nearest named), a wrong type, a required key that is missing.
nlohmann::ordered_json complete_fields(std::string_view owner,
                                       std::span<const Field> fields,
                                       const nlohmann::ordered_json& given);

}  // namespace thinwire
