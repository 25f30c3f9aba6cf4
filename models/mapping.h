// A whole file in memory: private and copy-on-write, so that what nobody writes
// stays shared by all processes of the host, and a write touches this process's
// pages alone, never the file.
#pragma once

#include <cstddef>
#include <string>

namespace thinwire {

class Mapping {
 public:
  // Throws IoError (path, the system's text).
  explicit Mapping(const std::string& path);
  Mapping(const Mapping&) = delete;
  Mapping& operator=(const Mapping&) = delete;
  ~Mapping();

  std::byte* data() const { return data_; }  // null when the file is empty
  std::size_t size() const { return size_; }

 private:
  std::byte* data_ = nullptr;
  std::size_t size_ = 0;
};

// Lets go of the pages of a mapping that lie wholly in [data, data + bytes) and
// that nobody wrote: they are read from the file again when they are touched.
// For what was converted and is not looked at any more.
void forget_pages(const void* data, std::size_t bytes) noexcept;

}  // namespace thinwire
