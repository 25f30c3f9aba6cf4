#include "models/safetensors.h"

#include <algorithm>
#include <cstring>
#include <numeric>
#include <span>

#define TORCH_ASSERT_ONLY_METHOD_OPERATORS
#include <ATen/ops/empty.h>
#include <ATen/ops/from_blob.h>

#include <nlohmann/json.hpp>

#include "base/error.h"
#include "base/nearest.h"
#include "models/atomic_file.h"
#include "models/mapping.h"
#include "models/safetensors_header.h"

namespace thinwire {

struct SafetensorsFile::State {
  explicit State(const std::string& p)
      : path(p),
        mapping(std::make_shared<Mapping>(p)),
        header(read_safetensors_header(
            p, std::span<const std::byte>(mapping->data(), mapping->size()))),
        by_name(header.entries.size()) {
    names.reserve(header.entries.size());
    for (const auto& entry : header.entries) names.push_back(entry.name);
    std::iota(by_name.begin(), by_name.end(), std::size_t{0});
    std::sort(by_name.begin(), by_name.end(),
              [&](auto a, auto b) { return names[a] < names[b]; });
  }

  const SafetensorsEntry* find(std::string_view name) const {
    const auto at = std::lower_bound(
        by_name.begin(), by_name.end(), name,
        [&](std::size_t i, std::string_view n) { return names[i] < n; });
    if (at == by_name.end() || names[*at] != name) return nullptr;
    return &header.entries[*at];
  }

  std::string path;
  std::shared_ptr<Mapping> mapping;
  SafetensorsHeader header;
  std::vector<std::string> names;
  std::vector<std::size_t> by_name;  // indices, in order of the names
};

SafetensorsFile::SafetensorsFile(const std::string& path)
    : state_(std::make_shared<State>(path)) {}

const std::string& SafetensorsFile::path() const { return state_->path; }
const Metadata& SafetensorsFile::metadata() const {
  return state_->header.metadata;
}
const std::vector<std::string>& SafetensorsFile::names() const {
  return state_->names;
}
bool SafetensorsFile::contains(std::string_view name) const {
  return state_->find(name) != nullptr;
}

at::Tensor SafetensorsFile::tensor(std::string_view name) const {
  const SafetensorsEntry* entry = state_->find(name);
  if (entry == nullptr) {
    fail<UsageError>("{}: no tensor '{}' (the nearest is '{}')", state_->path,
                     name, nearest(name, state_->names));
  }
  std::byte* data =
      state_->mapping->data() + state_->header.data_begin + entry->begin;
  const at::TensorOptions options = at::TensorOptions().dtype(entry->dtype);
  const auto width = at::elementSize(entry->dtype);
  if (reinterpret_cast<std::uintptr_t>(data) % width != 0) {
    at::Tensor copy = at::empty(entry->shape, options);
    std::memcpy(copy.data_ptr(), data, copy.nbytes());
    return copy;
  }
  return at::from_blob(
      data, entry->shape, [mapping = state_->mapping](void*) {}, options);
}

void write_safetensors(const std::string& path, const NamedTensors& tensors,
                       Metadata metadata) {
  // Widest numbers first: then every tensor is aligned for its dtype.
  std::vector<std::size_t> order(tensors.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::stable_sort(order.begin(), order.end(), [&](auto a, auto b) {
    return tensors[a].second.element_size() > tensors[b].second.element_size();
  });

  metadata["format"] = "pt";
  nlohmann::ordered_json header;
  header["__metadata__"] = metadata;
  std::uint64_t offset = 0;
  for (const std::size_t i : order) {
    const auto& [name, tensor] = tensors[i];
    if (header.contains(name)) {
      fail<UsageError>("{}: two tensors are named '{}'", path, name);
    }
    const std::uint64_t end = offset + tensor.nbytes();
    header[name] = {
        {"dtype", safetensors_dtype_name(path, name, tensor.scalar_type())},
        {"shape", tensor.sizes().vec()},
        {"data_offsets", {offset, end}}};
    offset = end;
  }
  std::string text;
  try {
    text = header.dump();
  } catch (const nlohmann::json::exception& e) {
    fail<UsageError>("{}: a name or metadata value is not UTF-8: {}", path,
                     e.what());
  }
  text.resize((text.size() + 7) / 8 * 8, ' ');

  AtomicFile file(path);
  const std::uint64_t length = text.size();
  file.write(&length, sizeof length);
  file.write(text.data(), text.size());
  for (const std::size_t i : order) {
    const at::Tensor tensor = tensors[i].second.detach().contiguous();
    file.write(tensor.const_data_ptr(), tensor.nbytes());
  }
  file.publish();
}

}  // namespace thinwire
