#include "peft/field_values.h"

#include <charconv>
#include <string>
#include <vector>

#include "base/error.h"
#include "base/nearest.h"
#include "peft/method.h"

namespace thinwire {
namespace {

using Json = nlohmann::ordered_json;

std::string_view type_name(FieldType type) {
  switch (type) {
    case FieldType::kBool:
      return "true or false";
    case FieldType::kInt:
      return "a whole number";
    case FieldType::kFloat:
      return "a number";
    case FieldType::kString:
      return "text";
    case FieldType::kStrings:
      return "a list of texts";
    case FieldType::kInts:
      return "a list of whole numbers";
    case FieldType::kFloats:
      return "a list of numbers";
    case FieldType::kMethod:
      return "a method with its config, as {method: lora, r: 8}";
  }
  return "?";
}

// {"method": ID} with all of its fields. Throws UsageError.
Json method_config(const Json& given) {
  const auto id = given.find("method");
  if (id == given.end() || !id->is_string()) return {};
  const MethodInfo& info = find_method(id->get<std::string>());
  Json out = {{"method", info.id}};
  out.update(complete_fields(info.id, info.fields, given));
  return out;
}

// As the type; null when it is not of that type.
Json typed(FieldType type, const Json& value) {
  switch (type) {
    case FieldType::kBool:
      return value.is_boolean() ? value : Json();
    case FieldType::kInt:
      return value.is_number_integer() ? value : Json();
    case FieldType::kFloat:
      return value.is_number() ? Json(value.get<double>()) : Json();
    case FieldType::kString:
      return value.is_string() ? value : Json();
    case FieldType::kStrings:
    case FieldType::kInts:
    case FieldType::kFloats: {
      const FieldType item_type =
          type == FieldType::kStrings ? FieldType::kString
          : type == FieldType::kInts  ? FieldType::kInt
                                      : FieldType::kFloat;
      Json list = Json::array();
      if (!value.is_array()) {
        list.push_back(typed(item_type, value));
      } else {
        for (const Json& item : value) list.push_back(typed(item_type, item));
      }
      for (const Json& item : list) {
        if (item.is_null()) return {};
      }
      return list;
    }
    case FieldType::kMethod:
      return value.is_object() ? method_config(value) : Json();
  }
  return {};
}

// The default, written as in YAML: only what fields use (scalars, [a, b]).
Json parse_default(std::string_view owner, const Field& f) {
  const std::string text(f.default_text);
  Json value;
  switch (f.type) {
    case FieldType::kBool:
    case FieldType::kInt:
    case FieldType::kFloat:
    case FieldType::kMethod:
      value = Json::parse(text, nullptr, false);
      break;
    case FieldType::kString:
      value = text;
      break;
    case FieldType::kStrings:
    case FieldType::kInts:
    case FieldType::kFloats: {
      THINWIRE_ASSERT(
          text.size() >= 2 && text.front() == '[' && text.back() == ']',
          "{}.{}: default {}", owner, f.name, text);
      value = Json::array();
      std::string item;
      const auto push = [&] {
        const std::size_t begin = item.find_first_not_of(' ');
        if (begin == std::string::npos) return;
        item = item.substr(begin, item.find_last_not_of(' ') - begin + 1);
        value.push_back(f.type == FieldType::kStrings
                            ? Json(item)
                            : Json::parse(item, nullptr, false));
        item.clear();
      };
      for (const char c : text.substr(1, text.size() - 2)) {
        if (c == ',') {
          push();
        } else {
          item += c;
        }
      }
      push();
      break;
    }
  }
  value = typed(f.type, value);
  THINWIRE_ASSERT(!value.is_null(), "{}.{}: default {}", owner, f.name, text);
  return value;
}

}  // namespace

Json complete_fields(std::string_view owner, std::span<const Field> fields,
                     const Json& given) {
  if (!given.is_object() && !given.is_null()) {
    fail<UsageError>("{}: its config must be a map of keys, got {}", owner,
                     given.dump());
  }
  std::vector<std::string> known;
  for (const Field& f : fields) known.emplace_back(f.name);
  for (const auto& [key, value] : given.items()) {
    if (key == "method" && value == owner) continue;
    bool found = false;
    for (const std::string& name : known) found = found || name == key;
    if (!found) {
      fail<UsageError>("{}: key '{}' is unknown; nearest: '{}'", owner, key,
                       nearest(key, known));
    }
  }
  Json out = Json::object();
  for (const Field& f : fields) {
    const std::string name(f.name);
    const auto it = given.find(name);
    const bool present = it != given.end() && !it->is_null();
    if (present) {
      Json value = typed(f.type, *it);
      if (value.is_null()) {
        fail<UsageError>("{}: {} must be {}, got {}", owner, name,
                         type_name(f.type), it->dump());
      }
      out[name] = std::move(value);
    } else if (f.default_text == "!") {
      fail<UsageError>("{}: {} is required ({})", owner, name, f.help);
    } else if (f.default_text == "~") {
      out[name] = nullptr;
    } else {
      out[name] = parse_default(owner, f);
    }
  }
  return out;
}

}  // namespace thinwire
