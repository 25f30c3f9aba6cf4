// The keys of a config: tables of fields per section, reading a section by
// such a table, and --help-config printed from them.
#pragma once

#include <limits>
#include <nlohmann/json.hpp>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/field.h"
#include "launch/config_tree.h"

namespace thinwire {

inline constexpr double kMaxCount = 9007199254740992.0;  // 2^53, in a double

struct SectionField {
  Field field;
  bool speed = false;  // changes speed, not results
  double low = -std::numeric_limits<double>::infinity();  // of numbers
  double high = std::numeric_limits<double>::infinity();
  std::string_view choices = "";  // of strings: "a | b"
};

struct Section {
  std::string_view name;
  std::string_view about;
  std::span<const SectionField> fields;
};

std::span<const Section> config_sections();  // model, data, train, comm, …
const Section& config_section(std::string_view name);

// The value of every field: what the map `node` says, else the default (null
// where that is "~"). `known` are further keys that the caller reads himself.
// Throws UsageError with file:line for an unknown key (and the nearest known
// one), a missing required key, a wrong type. node may be null: all defaults.
nlohmann::ordered_json read_fields(const ConfigNode* node,
                                   std::string_view section,
                                   std::span<const Field> fields,
                                   const std::vector<std::string>& known = {});
// The word that picks a table of fields: `key` of the map `node`. Throws
// UsageError with file:line, or `path` where there is no node.
std::string selector(const ConfigNode* node, std::string_view section,
                     std::string_view key, const std::string& path);
// {method: ID} and the fields of the method, as read_fields() reads them.
nlohmann::ordered_json read_method(const ConfigNode* node,
                                   std::string_view section,
                                   const std::string& path);
// With ranges and choices checked too.
nlohmann::ordered_json read_section(const ConfigNode* node,
                                    const Section& section);

// Every key with default and unit, methods and tasks included.
std::string config_help();

}  // namespace thinwire
