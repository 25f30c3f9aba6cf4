#include "models/atomic_file.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "base/error.h"
#include "base/failpoint.h"

namespace thinwire {

void FileTraits::release(type fd) noexcept { ::close(fd); }

AtomicFile::AtomicFile(const std::string& path)
    : path_(path), temporary_(path + ".tmp") {
  file_.reset(::open(temporary_.c_str(),
                     O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644));
  if (!file_) die("cannot create");
}

AtomicFile::~AtomicFile() {
  if (!published_) ::unlink(temporary_.c_str());
}

void AtomicFile::write(const void* data, std::size_t bytes) {
  const char* p = static_cast<const char*>(data);
  while (bytes > 0) {
    // Linux writes at most 2^31 - 4096 bytes a call.
    const ssize_t done =
        write_fails()
            ? -1
            : ::write(file_.get(), p, std::min<std::size_t>(bytes, 1u << 30));
    if (done < 0 && errno == EINTR) continue;
    if (done < 0) die("cannot write");
    p += done;
    bytes -= static_cast<std::size_t>(done);
  }
}

void AtomicFile::publish() {
  if (write_fails() || ::fsync(file_.get()) != 0) die("cannot flush");
  if (::close(file_.detach()) != 0) die("cannot close");
  if (write_fails() || ::rename(temporary_.c_str(), path_.c_str()) != 0) {
    die("cannot rename");
  }
  published_ = true;
  const auto slash = path_.find_last_of('/');
  const std::string folder = slash == std::string::npos ? "."
                             : slash == 0               ? "/"
                                          : path_.substr(0, slash);
  const File dir(::open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!dir || write_fails() || ::fsync(dir.get()) != 0) {
    die("cannot flush the folder of");
  }
}

void AtomicFile::die(const char* what) const {
  fail<IoError>("{}: {}: {}", path_, what, std::strerror(errno));
}

}  // namespace thinwire
