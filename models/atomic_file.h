// A file that becomes visible whole, or not at all: written beside its place as
// PATH.tmp, fsynced, renamed, its folder fsynced.
#pragma once

#include <cstddef>
#include <string>

#include "base/handle.h"

namespace thinwire {

struct FileTraits {
  using type = int;
  static type null() noexcept { return -1; }
  static void release(type fd) noexcept;
};
using File = UniqueHandle<FileTraits>;

// All throw IoError (path, what, the system's text). Unless publish() returned,
// the destructor removes PATH.tmp, and PATH is as it was.
class AtomicFile {
 public:
  explicit AtomicFile(const std::string& path);
  AtomicFile(const AtomicFile&) = delete;
  AtomicFile& operator=(const AtomicFile&) = delete;
  ~AtomicFile();

  void write(const void* data, std::size_t bytes);
  void publish();

 private:
  [[noreturn]] void die(const char* what) const;

  std::string path_, temporary_;
  File file_;
  bool published_ = false;
};

}  // namespace thinwire
