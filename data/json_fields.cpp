#include "data/json_fields.h"

#include <cerrno>
#include <cstring>
#include <fstream>
#include <limits>
#include <sstream>
#include <utility>

#include "base/error.h"

namespace thinwire {

using nlohmann::json;

json read_json(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  if (!in) fail<IoError>("{}: cannot open: {}", path, std::strerror(errno));
  std::ostringstream text;
  text << in.rdbuf();
  json out = json::parse(text.str(), nullptr, /*allow_exceptions=*/false);
  if (!out.is_object()) {
    fail<IoError>("{}: not a JSON object, the file is damaged", path);
  }
  return out;
}

Fields::Fields(const json& object, std::string path)
    : object_(&object), path_(std::move(path)) {
  if (!object.is_object()) fail<UsageError>("{}: not an object", path_);
}

std::int64_t Fields::integer(const char* name, std::int64_t low,
                             std::int64_t high) const {
  const json& value = get(name);
  if (!value.is_number_integer() ||
      (value.is_number_unsigned() &&
       value.get<std::uint64_t>() >
           static_cast<std::uint64_t>(std::numeric_limits<long>::max())) ||
      value.get<std::int64_t>() < low || value.get<std::int64_t>() > high) {
    fail<UsageError>("{}: '{}' must be an integer in [{}, {}]", path_, name,
                     low, high);
  }
  return value.get<std::int64_t>();
}

std::string Fields::text(const char* name) const {
  const json& value = get(name);
  if (!value.is_string()) {
    fail<UsageError>("{}: '{}' must be a text", path_, name);
  }
  return value.get<std::string>();
}

const json& Fields::list(const char* name) const {
  const json& value = get(name);
  if (!value.is_array()) {
    fail<UsageError>("{}: '{}' must be a list", path_, name);
  }
  return value;
}

std::vector<std::string> Fields::texts(const char* name) const {
  std::vector<std::string> out;
  for (const json& item : list(name)) {
    if (!item.is_string()) {
      fail<UsageError>("{}: '{}' must be a list of texts", path_, name);
    }
    out.push_back(item.get<std::string>());
  }
  return out;
}

const json& Fields::get(const char* name) const {
  const auto it = object_->find(name);
  if (it == object_->end()) fail<UsageError>("{}: has no '{}'", path_, name);
  return *it;
}

}  // namespace thinwire
