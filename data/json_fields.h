// The JSON files that stand beside HDF5 files, field by field, with the path in
// every complaint. Internal to data/.
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

namespace thinwire {

// An object. Throws IoError.
nlohmann::json read_json(const std::string& path);

// Of an object that outlives it. All throw UsageError.
class Fields {
 public:
  Fields(const nlohmann::json& object, std::string path);

  std::int64_t integer(const char* name, std::int64_t low,
                       std::int64_t high) const;
  std::string text(const char* name) const;
  const nlohmann::json& list(const char* name) const;
  std::vector<std::string> texts(const char* name) const;
  bool has(const char* name) const { return object_->contains(name); }

 private:
  const nlohmann::json& get(const char* name) const;

  const nlohmann::json* object_;
  std::string path_;
};

}  // namespace thinwire
