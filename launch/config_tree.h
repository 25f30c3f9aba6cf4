// A YAML file as a tree that knows where each value was written: duplicate keys
// refused, `extends: base.yaml` and `${env:NAME}` resolved, `key.path=value`
// overrides laid on top. What the keys mean is launch/config.h's business.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace thinwire {

struct ConfigNode {
  enum class Kind { kNull, kScalar, kList, kMap };
  Kind kind = Kind::kNull;
  std::string text;                  // scalar, substituted
  bool quoted = false;               // scalar: was in quotes, so it is a string
  std::vector<std::string> keys;     // map: of children
  std::vector<ConfigNode> children;  // list, map
  std::string where;                 // "file.yaml:12" or "command line"

  const ConfigNode* find(std::string_view key) const;  // map; null: none
  ConfigNode* find(std::string_view key);
};

// Throws UsageError/IoError with one line: file:line, what, what would be
// right. Bounded: files of 1 MiB, 100,000 values, eight levels of extends.
ConfigNode load_config_tree(const std::string& path);

// text: YAML; where: for messages.
ConfigNode parse_config_text(const std::string& text, const std::string& where);

// "train.lr=1e-3", "peft.0.r=4" (lists by index; one past the end appends).
// Throws UsageError naming the assignment.
void apply_override(ConfigNode& root, std::string_view assignment);

}  // namespace thinwire
