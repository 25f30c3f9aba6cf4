// The header of a safetensors file, parsed and checked. Internal to
// models/safetensors.cpp; apart from it so that it can be tested and fuzzed on
// bytes alone.
#pragma once

#include <c10/core/ScalarType.h>

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "models/safetensors.h"

namespace thinwire {

struct SafetensorsEntry {
  std::string name;
  at::ScalarType dtype = at::ScalarType::Undefined;
  std::vector<std::int64_t> shape;
  std::uint64_t begin = 0, end = 0;  // bytes, from data_begin
};

struct SafetensorsHeader {
  std::vector<SafetensorsEntry> entries;  // in file order
  Metadata metadata;
  std::uint64_t data_begin = 0;  // bytes from the start of the file
};

// file: the whole file's bytes; only the header is read. Throws UsageError
// (path, tensor, what is wrong) unless the file is exactly what its header
// says.
SafetensorsHeader read_safetensors_header(const std::string& path,
                                          std::span<const std::byte> file);

// "F32" …; throws UsageError (path, tensor) for a dtype the format lacks.
std::string_view safetensors_dtype_name(const std::string& path,
                                        std::string_view tensor,
                                        at::ScalarType dtype);

}  // namespace thinwire
