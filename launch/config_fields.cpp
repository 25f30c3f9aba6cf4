#include "launch/config_fields.h"

#include <cerrno>
#include <cmath>
#include <cstdlib>

#include "base/error.h"
#include "base/nearest.h"
#include "launch/config_tasks.h"
#include "peft/method.h"
#include "tasks/task.h"

namespace thinwire {
namespace {

using enum FieldType;
constexpr double kInfinity = std::numeric_limits<double>::infinity();

std::string_view type_name(FieldType type) {
  switch (type) {
    case kBool:
      return "true or false";
    case kInt:
      return "a whole number";
    case kFloat:
      return "a number";
    case kString:
      return "one word or text";
    case kStrings:
      return "a list of words";
    case kInts:
      return "a list of whole numbers";
    case kFloats:
      return "a list of numbers";
    case kMethod:
      return "a method with its config, as {method: lora, r: 8}";
  }
  return "";
}

bool parse_number(const std::string& text, double* out) {
  if (text.empty()) return false;
  char* end = nullptr;
  errno = 0;
  *out = std::strtod(text.c_str(), &end);
  return *end == '\0' && std::isfinite(*out);
}

// False: not of this type.
bool read_scalar(const ConfigNode& node, FieldType type,
                 nlohmann::ordered_json* out) {
  if (node.kind != ConfigNode::Kind::kScalar) return false;
  if (type == kString) {
    *out = node.text;
    return true;
  }
  if (node.quoted) return false;
  if (type == kBool) {
    *out = node.text == "true";
    return node.text == "true" || node.text == "false";
  }
  double value = 0;
  if (!parse_number(node.text, &value)) return false;
  if (type == kFloat) {
    *out = value;
    return true;
  }
  *out = static_cast<std::int64_t>(std::abs(value) <= kMaxCount ? value : 0);
  return std::abs(value) <= kMaxCount && value == std::floor(value);
}

bool read_value(const ConfigNode& node, FieldType type,
                nlohmann::ordered_json* out) {
  if (type != kStrings && type != kInts && type != kFloats) {
    return read_scalar(node, type, out);
  }
  const FieldType item = type == kStrings ? kString
                         : type == kInts  ? kInt
                                          : kFloat;
  *out = nlohmann::ordered_json::array();
  if (node.kind == ConfigNode::Kind::kScalar) {  // a list of one
    return read_scalar(node, item, &out->emplace_back());
  }
  if (node.kind != ConfigNode::Kind::kList) return false;
  for (const ConfigNode& child : node.children) {
    if (!read_scalar(child, item, &out->emplace_back())) return false;
  }
  return true;
}

nlohmann::ordered_json default_value(const Field& field,
                                     std::string_view section) {
  const ConfigNode node =
      parse_config_text(std::string(field.default_text), "default");
  nlohmann::ordered_json out;
  if (node.kind == ConfigNode::Kind::kNull) return out;
  if (field.type == kMethod) return read_method(&node, section, "default");
  THINWIRE_ASSERT(read_value(node, field.type, &out), "{}.{}: default '{}'",
                  section, field.name, field.default_text);
  return out;
}

void refuse_unknown(const ConfigNode& node, std::string_view section,
                    std::span<const Field> fields,
                    const std::vector<std::string>& known) {
  std::vector<std::string> names = known;
  for (const Field& field : fields) names.emplace_back(field.name);
  for (std::size_t i = 0; i < node.keys.size(); ++i) {
    const std::string& key = node.keys[i];
    if (std::ranges::find(names, key) != names.end()) continue;
    fail<UsageError>("{}: {}.{} is unknown; did you mean {}.{}?",
                     node.children[i].where, section, key, section,
                     nearest(key, names));
  }
}

void check_range(const ConfigNode* node, std::string_view section,
                 const SectionField& f, const nlohmann::ordered_json& value) {
  if (value.is_null()) return;
  const ConfigNode* at = node == nullptr ? nullptr : node->find(f.field.name);
  const std::string where = at == nullptr ? "default" : at->where;
  if (value.is_number()) {
    const double x = value.get<double>();
    if (x >= f.low && x <= f.high) return;
    const std::string allowed =
        f.low == f.high       ? fmt::format("{:g}", f.low)
        : f.high == kMaxCount ? fmt::format("at least {:g}", f.low)
        : f.high == kInfinity ? fmt::format("at least {:g}", f.low)
                              : fmt::format("from {:g} to {:g}", f.low, f.high);
    fail<UsageError>("{}: {}.{} is {}; it must be {}", where, section,
                     f.field.name, value.dump(), allowed);
  }
  if (!value.is_string() || f.choices.empty()) return;
  const std::string& text = value.get_ref<const std::string&>();
  std::string_view rest = f.choices;
  while (!rest.empty()) {
    const std::size_t bar = rest.find(" | ");
    if (rest.substr(0, bar) == text) return;
    rest = bar == std::string_view::npos ? "" : rest.substr(bar + 3);
  }
  fail<UsageError>("{}: {}.{} is '{}'; choose one of: {}", where, section,
                   f.field.name, text, f.choices);
}

void print_field(std::string& out, std::string_view indent, const Field& f,
                 std::string_view choices = "") {
  const std::string value =
      f.default_text == "!" ? "(required)" : std::string(f.default_text);
  out += fmt::format("{}{:<18} {:<12} {}{}\n", indent, f.name, value, f.help,
                     choices.empty() ? "" : fmt::format(": {}", choices));
}

}  // namespace

const Section& config_section(std::string_view name) {
  for (const Section& section : config_sections()) {
    if (section.name == name) return section;
  }
  fail<InternalError>("no config section {}", name);
}

nlohmann::ordered_json read_fields(const ConfigNode* node,
                                   std::string_view section,
                                   std::span<const Field> fields,
                                   const std::vector<std::string>& known) {
  nlohmann::ordered_json out = nlohmann::ordered_json::object();
  if (node != nullptr && node->kind != ConfigNode::Kind::kNull) {
    if (node->kind != ConfigNode::Kind::kMap) {
      fail<UsageError>("{}: {} must be a map of keys; see --help-config",
                       node->where, section);
    }
    refuse_unknown(*node, section, fields, known);
  }
  for (const Field& field : fields) {
    const ConfigNode* value =
        node == nullptr ? nullptr : node->find(field.name);
    auto& slot = out[std::string(field.name)];
    if (value == nullptr || value->kind == ConfigNode::Kind::kNull) {
      if (field.default_text == "!") {
        fail<UsageError>("{}: {}.{} is missing: {}",
                         value != nullptr  ? value->where
                         : node != nullptr ? node->where
                                           : "config",
                         section, field.name, field.help);
      }
      slot = default_value(field, section);
    } else if (field.type == kMethod) {
      slot = read_method(value, fmt::format("{}.{}", section, field.name), "");
    } else if (!read_value(*value, field.type, &slot)) {
      fail<UsageError>("{}: {}.{} is {}; it must be {}", value->where, section,
                       field.name,
                       value->kind == ConfigNode::Kind::kScalar
                           ? fmt::format("'{}'", value->text)
                       : value->kind == ConfigNode::Kind::kList ? "a list"
                                                                : "a map",
                       type_name(field.type));
    }
  }
  return out;
}

std::string selector(const ConfigNode* node, std::string_view section,
                     std::string_view key, const std::string& path) {
  if (node == nullptr || node->kind != ConfigNode::Kind::kMap) {
    fail<UsageError>("{}: {} must be a map with the key `{}`",
                     node == nullptr ? path : node->where, section, key);
  }
  const ConfigNode* word = node->find(key);
  if (word == nullptr || word->kind != ConfigNode::Kind::kScalar) {
    fail<UsageError>("{}: {}.{} is missing", node->where, section, key);
  }
  return word->text;
}

nlohmann::ordered_json read_method(const ConfigNode* node,
                                   std::string_view section,
                                   const std::string& path) {
  const std::string id = selector(node, section, "method", path);
  const auto info = [&]() -> const MethodInfo& {
    try {
      return find_method(id);
    } catch (const UsageError& error) {
      fail<UsageError>("{}: {}", node->find("method")->where, error.what());
    }
  };
  nlohmann::ordered_json out = {{"method", id}};
  out.update(read_fields(node, section, info().fields, {"method"}));
  return out;
}

nlohmann::ordered_json read_section(const ConfigNode* node,
                                    const Section& section) {
  std::vector<Field> fields;
  for (const SectionField& f : section.fields) fields.push_back(f.field);
  auto out = read_fields(node, section.name, fields);
  for (const SectionField& f : section.fields) {
    check_range(node, section.name, f, out.at(std::string(f.field.name)));
  }
  return out;
}

std::string config_help() {
  std::string out =
      "A config is one YAML file; `key.path=value` after it overrides, as in\n"
      "train.lr=1e-3 or peft.0.r=4. ${env:NAME} is substituted; `extends:\n"
      "base.yaml` starts from another file. Key, default and meaning (~ is\n"
      "unset):\n\n"
      "about                              what the run is for\n"
      "output             (required)      run folder\n"
      "device             cpu             cpu | cuda: where weights and steps "
      "are\n";
  for (const bool speed : {false, true}) {
    out += speed ? "\n--- keys that change speed alone ---\n"
                 : "\n--- keys that change results ---\n";
    for (const Section& section : config_sections()) {
      std::string body;
      for (const SectionField& f : section.fields) {
        if (f.speed == speed) print_field(body, "  ", f.field, f.choices);
      }
      if (section.name == "data" && !speed) {
        body += "  train.NAME:        # of a task\n";
        for (const Field& field : task_data_fields()) {
          print_field(body, "    ", field);
        }
      }
      if (!body.empty()) {
        out +=
            fmt::format("\n{}:  # {}\n{}", section.name, section.about, body);
      }
    }
    if (speed) continue;
    out += "\ntask:  # what is optimised; `kind` is one of\n";
    for (const TaskInfo& task : tasks()) {
      out += fmt::format("  kind: {:<18} {}\n", task.kind, task.about);
      for (const Field& field : task.fields) print_field(out, "    ", field);
    }
    out += "\npeft:  # a list; `method` is one of\n";
    for (const MethodInfo& method : methods()) {
      out += fmt::format("  - method: {:<14} {}\n", method.id, method.about);
      for (const Field& field : method.fields) print_field(out, "    ", field);
    }
  }
  return out;
}

}  // namespace thinwire
