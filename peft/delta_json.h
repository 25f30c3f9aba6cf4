// The layout of a delta as JSON, and back. Internal to delta_file.
#pragma once

#include <nlohmann/json.hpp>
#include <string>

#include "peft/delta.h"

namespace thinwire {

nlohmann::ordered_json layout_to_json(const Delta& delta);

DeltaGroup group_from_json(const nlohmann::json& j);
// Without index; offset and count as stated. Throws UsageError (no path) or
// nlohmann's exceptions for what is malformed.
DeltaEntry entry_from_json(const nlohmann::json& j);

std::string_view rule_name(BufferRule rule);
BufferRule parse_rule(std::string_view name);  // UsageError

}  // namespace thinwire
