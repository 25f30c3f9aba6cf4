#include "dist/durable.h"

#include <fcntl.h>
#include <stdio.h>  // renameat2
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <system_error>

#include "base/error.h"
#include "base/failpoint.h"

namespace thinwire {
namespace {

namespace fs = std::filesystem;

[[noreturn]] void fail_errno(const std::string& path, std::string_view what) {
  const int error = errno;
  fail<IoError>("{}: cannot {}: {}", path, what, std::strerror(error));
}

class File {
 public:
  File(const std::string& path, int flags) : path_(path) {
    fd_ = ::open(path.c_str(), flags | O_CLOEXEC, 0644);
    if (fd_ < 0) fail_errno(path_, "open");
  }
  ~File() {
    if (fd_ >= 0) ::close(fd_);
  }
  File(const File&) = delete;
  File& operator=(const File&) = delete;

  void write(std::string_view bytes) {
    while (!bytes.empty()) {
      const ssize_t n =
          write_fails() ? -1 : ::write(fd_, bytes.data(), bytes.size());
      if (n < 0 && errno == EINTR) continue;
      if (n < 0) fail_errno(path_, "write");
      bytes.remove_prefix(static_cast<std::size_t>(n));
    }
  }
  void sync() {
    if (write_fails() || ::fsync(fd_) != 0) fail_errno(path_, "fsync");
  }

 private:
  const std::string& path_;
  int fd_;
};

void rename_path(const std::string& from, const std::string& to) {
  if (write_fails() || ::rename(from.c_str(), to.c_str()) != 0) {
    fail_errno(from, "rename to " + to);
  }
}

// A folder cannot be renamed over another that has files in it.
bool exchange_paths(const std::string& a, const std::string& b) {
  if (write_fails()) fail_errno(a, "exchange with " + b);
  if (::renameat2(AT_FDCWD, a.c_str(), AT_FDCWD, b.c_str(), RENAME_EXCHANGE) ==
      0) {
    return true;
  }
  if (errno == EINVAL || errno == ENOSYS) return false;  // old file systems
  fail_errno(a, "exchange with " + b);
}

std::string parent_of(const std::string& path) {
  const fs::path parent = fs::path(path).parent_path();
  return parent.empty() ? "." : parent.string();
}

std::string beside(const std::string& path, std::string_view prefix) {
  const fs::path p(path);
  return (p.parent_path() / (std::string(prefix) + p.filename().string()))
      .string();
}

constexpr std::string_view kOldPrefix = ".tmp-old-";

void erase(const std::string& path) {
  std::error_code error;
  fs::remove_all(path, error);
  if (error) fail<IoError>("{}: cannot remove: {}", path, error.message());
}

}  // namespace

void write_file(const std::string& path, std::string_view bytes) {
  File file(path, O_WRONLY | O_CREAT | O_TRUNC);
  file.write(bytes);
  file.sync();
}

std::string read_file(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  if (!in) fail_errno(path, "open");
  std::string bytes((std::istreambuf_iterator<char>(in)),
                    std::istreambuf_iterator<char>());
  if (in.bad()) fail_errno(path, "read");
  return bytes;
}

void publish_file(const std::string& path, std::string_view bytes) {
  const std::string temporary = beside(path, kTemporaryPrefix);
  try {
    write_file(temporary, bytes);
    rename_path(temporary, path);
  } catch (...) {
    std::error_code ignored;
    fs::remove(temporary, ignored);
    throw;
  }
  sync_folder(parent_of(path));
}

void create_folder(const std::string& path) {
  std::error_code error;
  if (write_fails()) fail_errno(path, "create the folder");
  fs::create_directories(path, error);
  if (error) {
    fail<IoError>("{}: cannot create the folder: {}", path, error.message());
  }
}

void sync_folder(const std::string& path) {
  File(path, O_RDONLY | O_DIRECTORY).sync();
}

void publish_folder(const std::string& from, const std::string& to) {
  if (!fs::exists(to)) {
    rename_path(from, to);
    sync_folder(parent_of(to));
    return;
  }
  if (exchange_paths(from, to)) {
    sync_folder(parent_of(to));
    erase(from);
    return;
  }
  // In two steps; sweep_temporaries() puts the old one back after a crash
  // between them.
  const std::string old = beside(to, kOldPrefix);
  erase(old);
  rename_path(to, old);
  rename_path(from, to);
  sync_folder(parent_of(to));
  erase(old);
}

void remove_folder(const std::string& path) {
  const std::string doomed = beside(path, kTemporaryPrefix);
  erase(doomed);
  rename_path(path, doomed);
  erase(doomed);
}

void sweep_temporaries(const std::string& folder) {
  std::error_code error;
  for (const auto& item : fs::directory_iterator(folder, error)) {
    const std::string name = item.path().filename().string();
    if (!name.starts_with(kTemporaryPrefix)) continue;
    if (name.starts_with(kOldPrefix)) {
      const fs::path home = fs::path(folder) / name.substr(kOldPrefix.size());
      if (!fs::exists(home)) {
        rename_path(item.path().string(), home.string());
        continue;
      }
    }
    erase(item.path().string());
  }
}

}  // namespace thinwire
