// Reads a one-dimensional HDF5 dataset without HDF5: pread, Fletcher32 check,
// inflate, unshuffle, all in the calling thread.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/handle.h"
#include "data/hdf5.h"

namespace thinwire {

struct DescriptorTraits {
  using type = int;
  static type null() { return -1; }
  static void release(type fd) noexcept;
};
using Descriptor = UniqueHandle<DescriptorTraits>;

// Opens for reading. Throws IoError.
Descriptor open_file(const std::string& path);

// HDF5's own flavour of Fletcher's checksum, over 16-bit big-endian words.
std::uint32_t fletcher32(const unsigned char* data, std::size_t bytes);

// Reads ranges of one dataset and keeps the last chunk it unpacked: cheap when
// ranges ascend. One thread each; `path`, `fd` and `layout` must outlive it.
class ChunkCursor {
 public:
  ChunkCursor(const std::string& path, int fd, const DatasetLayout& layout)
      : path_(&path), fd_(fd), layout_(&layout) {}

  ChunkCursor(const std::string&&, int, const DatasetLayout&) = delete;

  // Elements [first, first + count) to out, which holds them; T must have the
  // dataset's element size. Throws IoError (path, dataset, chunk) for a range
  // outside it, a failed read or a wrong checksum.
  template <class T>
  void read(std::int64_t first, std::int64_t count, T* out) {
    read_bytes(first, count, sizeof(T), reinterpret_cast<unsigned char*>(out));
  }
  template <class T>
  std::vector<T> read(std::int64_t first, std::int64_t count) {
    check_range(first, count);
    std::vector<T> out(static_cast<std::size_t>(count));
    read(first, count, out.data());
    return out;
  }
  // Reads and checks every chunk.
  void verify();

 private:
  void check_range(std::int64_t first, std::int64_t count) const;
  void read_bytes(std::int64_t first, std::int64_t count, std::size_t size,
                  unsigned char* out);
  void read_contiguous(std::int64_t first, std::int64_t count,
                       unsigned char* out);
  void load(std::int64_t chunk);

  const std::string* path_;
  int fd_;
  const DatasetLayout* layout_;
  std::int64_t loaded_ = -1;
  std::vector<unsigned char> data_, scratch_;
};

}  // namespace thinwire
