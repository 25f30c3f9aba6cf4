#include "models/new_folder.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <filesystem>

#include "base/error.h"
#include "models/atomic_file.h"

namespace thinwire {
namespace {

namespace fs = std::filesystem;

std::string without_slash(std::string path) {
  while (path.size() > 1 && path.ends_with('/')) path.pop_back();
  return path;
}

}  // namespace

NewFolder::NewFolder(const std::string& path)
    : path_(without_slash(path)), temporary_(path_ + ".tmp") {
  std::error_code error;
  if (fs::exists(path_, error) &&
      !(fs::is_directory(path_, error) && fs::is_empty(path_, error))) {
    fail<UsageError>("{}: is there already; name a new folder", path_);
  }
  fs::remove_all(temporary_, error);  // of a process that was killed
  if (!fs::create_directories(temporary_, error)) {
    fail<IoError>("{}: cannot make the folder: {}", path_, error.message());
  }
}

NewFolder::~NewFolder() {
  std::error_code ignored;
  if (!published_) fs::remove_all(temporary_, ignored);
}

std::string NewFolder::operator/(const std::string& name) const {
  return (fs::path(temporary_) / name).string();
}

void NewFolder::publish() {
  std::error_code error;
  fs::remove(path_, error);  // an empty folder; else nothing is there
  fs::rename(temporary_, path_, error);
  if (error) {
    fail<IoError>("{}: cannot rename the folder: {}", path_, error.message());
  }
  published_ = true;
  const std::string above = fs::absolute(path_).parent_path().string();
  const File folder(::open(above.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!folder || ::fsync(folder.get()) != 0) {
    fail<IoError>("{}: cannot flush the folder: {}", above,
                  std::strerror(errno));
  }
}

}  // namespace thinwire
