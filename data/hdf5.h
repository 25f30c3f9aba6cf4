// HDF5, as far as opening a shard needs it: attributes, and where the chunks of
// a one-dimensional dataset lie in the file. The data itself is read without
// the library (data/chunked.h), so no loader thread waits for its one lock.
#pragma once

#include <cstdint>
#include <mutex>
#include <string>
#include <vector>

#include "base/handle.h"

namespace thinwire {

enum class ElementType { kUint8, kUint16, kInt32, kInt64, kUint64, kFloat64 };
std::int64_t element_size(ElementType type);  // bytes

enum class Filter { kShuffle, kDeflate, kFletcher32 };

// Where one chunk lies. A chunk of a contiguous dataset is all of it.
struct StoredChunk {
  std::uint64_t address = 0;  // byte offset in the file
  std::uint64_t size = 0;     // bytes stored, after the filters
  std::uint32_t skipped = 0;  // bit i: filter i was not applied
};

struct DatasetLayout {
  std::string name;
  ElementType type = ElementType::kUint8;
  std::int64_t count = 0;           // elements
  std::int64_t chunk_elements = 0;  // of every chunk, the last one padded
  std::vector<Filter> filters;      // in the order they were applied
  std::vector<StoredChunk> chunks;
};

// Held by whoever enters the library: ranks may be threads of one process, and
// it may not be thread-safe.
std::mutex& hdf5_mutex();

struct Hdf5FileTraits {
  using type = std::int64_t;  // hid_t
  static type null() { return -1; }
  static void release(type id) noexcept;
};

// An open file, read only. Errors are IoError: path, name, the library's text.
// Calls from several threads need hdf5_mutex() around them.
class Hdf5File {
 public:
  explicit Hdf5File(const std::string& path);

  bool has(const std::string& name) const;
  // Checks rank 1, type, filters, and that every chunk lies inside the file.
  // Allocates no more than a small multiple of the file's size.
  DatasetLayout layout(const std::string& name, ElementType type) const;
  // Attributes of the root group.
  std::int64_t integer_attribute(const std::string& name) const;
  std::string text_attribute(const std::string& name) const;

 private:
  std::string path_;
  std::int64_t file_size_ = 0;  // bytes
  UniqueHandle<Hdf5FileTraits> file_;
};

}  // namespace thinwire
