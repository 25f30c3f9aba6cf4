// A private folder of the system's temporary directory, removed with all that
// is in it when this object goes.
#pragma once

#include <string>

namespace thinwire {

class TempFolder {
 public:
  // Throws IoError where no folder can be made.
  TempFolder();
  ~TempFolder();
  TempFolder(const TempFolder&) = delete;
  TempFolder& operator=(const TempFolder&) = delete;

  const std::string& path() const { return path_; }
  std::string operator/(const std::string& name) const {
    return path_ + "/" + name;
  }

 private:
  std::string path_;
};

}  // namespace thinwire
