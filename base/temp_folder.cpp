#include "base/temp_folder.h"

#include <stdlib.h>  // mkdtemp

#include <cerrno>
#include <cstring>
#include <filesystem>

#include "base/error.h"

namespace thinwire {

namespace fs = std::filesystem;

TempFolder::TempFolder()
    : path_((fs::temp_directory_path() / "thinwire-XXXXXX").string()) {
  if (::mkdtemp(path_.data()) == nullptr) {
    fail<IoError>("{}: cannot create: {}", path_, std::strerror(errno));
  }
}

TempFolder::~TempFolder() {
  std::error_code ignored;
  fs::remove_all(path_, ignored);
}

}  // namespace thinwire
