// The safetensors format: 8-byte little-endian header length, JSON header, raw
// tensors. Reading maps the file; writing is whole or not at all.
#pragma once

#include <ATen/core/Tensor.h>

#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace thinwire {

using NamedTensors = std::vector<std::pair<std::string, at::Tensor>>;
using Metadata = std::map<std::string, std::string>;

// A mapped file. Tensors share the private, copy-on-write mapping and keep it
// alive: what nobody writes stays shared by all ranks of a host; a write
// touches this process's pages alone, never the file.
class SafetensorsFile {
 public:
  // Checks everything before any tensor is made: header length and JSON,
  // duplicate names, dtypes, shapes (checked products), offsets contiguous
  // inside the file. Throws IoError or UsageError with path, tensor, what and
  // what would be right; allocates no more than the header.
  explicit SafetensorsFile(const std::string& path);

  const std::string& path() const;
  const Metadata& metadata() const;
  const std::vector<std::string>& names() const;  // in file order
  bool contains(std::string_view name) const;
  // As stored (F32 F16 BF16 F64 I64 I32 I16 I8 U8 U32 U64 BOOL). Throws
  // UsageError with path and the nearest name if there is none.
  at::Tensor tensor(std::string_view name) const;

 private:
  struct State;
  std::shared_ptr<const State> state_;
};

// Writes path + ".tmp", fsyncs, renames, fsyncs the folder. Tensors are made
// contiguous; metadata always gets {"format": "pt"}. Throws IoError; path is
// then as it was before.
void write_safetensors(const std::string& path, const NamedTensors& tensors,
                       Metadata metadata = {});

}  // namespace thinwire
