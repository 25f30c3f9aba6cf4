// What the tests of this folder share: the golden folders and damaged copies.
#pragma once

#include <filesystem>
#include <fstream>
#include <iterator>
#include <nlohmann/json.hpp>
#include <random>
#include <string>

#include "data/shard_folder.h"

namespace thinwire::testing {

inline std::string golden(const std::string& name) {
  return std::string(THINWIRE_SOURCE_DIR) + "/tests/golden/" + name;
}

inline std::string read_bytes(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), std::istreambuf_iterator<char>()};
}

inline void write_bytes(const std::string& path, const std::string& bytes) {
  std::ofstream out(path, std::ios::binary | std::ios::trunc);
  out.write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
  if (!out.flush()) std::abort();
}

inline nlohmann::json read_index(const std::string& folder) {
  return nlohmann::json::parse(read_bytes(folder + "/index.json"));
}

// A copy of a golden folder that a test may damage; removed at the end.
class FolderCopy {
 public:
  explicit FolderCopy(const std::string& name) {
    static std::random_device random;
    path_ = (std::filesystem::temp_directory_path() /
             ("thinwire-data-" + std::to_string(random()) +
              std::to_string(random())))
                .string();
    std::filesystem::copy(golden(name), path_);
  }
  FolderCopy(const FolderCopy&) = delete;
  FolderCopy& operator=(const FolderCopy&) = delete;
  ~FolderCopy() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  const std::string& path() const { return path_; }
  std::string shard(int i) const {
    return path_ + "/shard-0000" + std::to_string(i) + ".h5";
  }
  template <class Edit>
  void edit_index(Edit edit) const {
    nlohmann::json index = read_index(path_);
    edit(index);
    write_bytes(path_ + "/index.json", index.dump());
  }

 private:
  std::string path_;
};

inline bool same(const Sample& a, const Sample& b) {
  return a.id == b.id && a.task == b.task && a.input == b.input &&
         a.types == b.types && a.target == b.target && a.choices == b.choices &&
         a.label == b.label;
}

}  // namespace thinwire::testing
