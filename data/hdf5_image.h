// An HDF5 file made in memory, to be written by whoever makes files durable.
// Readable by version 1.10 of the library; the same contents give the same
// bytes.
#pragma once

#include <cstdint>
#include <span>
#include <string>

#include "data/hdf5.h"

namespace thinwire {

// All throw IoError (what, the library's text) and hold hdf5_mutex().
class Hdf5Image {
 public:
  Hdf5Image();
  Hdf5Image(const Hdf5Image&) = delete;
  Hdf5Image& operator=(const Hdf5Image&) = delete;
  ~Hdf5Image();

  void attribute(const std::string& name, std::int64_t value);  // of the root
  // One dimension, in chunks of so many elements (fewer where there are fewer),
  // each with its Fletcher32.
  void dataset(const std::string& name, std::span<const std::uint16_t> values,
               std::int64_t chunk);
  void dataset(const std::string& name, std::span<const std::int64_t> values,
               std::int64_t chunk);
  void dataset(const std::string& name, std::span<const std::uint64_t> values,
               std::int64_t chunk);
  std::string end();  // the file; nothing is added afterwards

 private:
  void write(const std::string& name, std::int64_t type, const void* values,
             std::size_t count, std::int64_t chunk);

  std::string bytes_;  // the library's memory for the file
  UniqueHandle<Hdf5FileTraits> file_;
};

}  // namespace thinwire
