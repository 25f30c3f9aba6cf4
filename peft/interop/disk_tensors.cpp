#include "peft/interop/disk_tensors.h"

#include <ATen/ops/zeros.h>

#include <algorithm>
#include <filesystem>
#include <set>
#include <utility>

#include "base/error.h"
#include "base/nearest.h"

namespace thinwire {
namespace {

// The piece's part of the tensor: a view.
at::Tensor part(const at::Tensor& tensor, const Piece& piece) {
  return piece.length < 0 ? tensor
                          : tensor.narrow(piece.dim, piece.start, piece.length);
}

at::Tensor entry_of(const at::Tensor& flat, const Delta& delta,
                    const Piece& piece) {
  const int i = delta.find(piece.entry);
  THINWIRE_ASSERT(i >= 0, "no entry '{}'", piece.entry);
  const DeltaEntry& e = delta.entries()[static_cast<std::size_t>(i)];
  return flat.narrow(0, e.offset, e.count);
}

std::string path_of(const std::string& folder, const std::string& file) {
  return (std::filesystem::path(folder) / file).string();
}

// The name by which the tensor is there; the canonical one if it is not.
const std::string& name_on_disk(const DiskTensor& d,
                                const std::set<std::string>& there) {
  if (there.contains(d.name)) return d.name;
  for (const std::string& other : d.also) {
    if (there.contains(other)) return other;
  }
  return d.name;
}

at::Tensor checked(const DiskTensor& d, const at::Tensor& tensor,
                   const std::string& path) {
  if (tensor.sizes() != at::IntArrayRef(d.shape)) {
    fail<UsageError>(
        "{}: tensor '{}' has shape [{}]; this model and the folder's "
        "adapter_config.json ask for [{}]",
        path, d.name, fmt::join(tensor.sizes(), ", "),
        fmt::join(d.shape, ", "));
  }
  if (!tensor.is_floating_point()) {
    fail<UsageError>("{}: tensor '{}' is {}, must be of a floating type", path,
                     d.name, c10::toString(tensor.scalar_type()));
  }
  at::Tensor numbers = tensor.to(at::kFloat);
  if (!numbers.isfinite().all().item<bool>()) {
    fail<UsageError>("{}: tensor '{}' holds numbers that are not finite", path,
                     d.name);
  }
  return numbers;
}

}  // namespace

DiskTensor disk_tensor(std::string file, std::string name,
                       const DeltaEntry& entry) {
  return {std::move(file), std::move(name), {}, entry.shape, {{entry.name}}};
}

TensorsByFile pack(const std::vector<DiskTensor>& disk, const Delta& delta,
                   const at::Tensor& flat) {
  TensorsByFile out;
  for (const DiskTensor& d : disk) {
    at::Tensor tensor = at::zeros(d.shape, at::kFloat);
    for (const Piece& piece : d.pieces) {
      at::Tensor to = part(tensor, piece);
      to.copy_(entry_of(flat, delta, piece).view(to.sizes()));
    }
    out[d.file].emplace_back(d.name, std::move(tensor));
  }
  for (auto& [file, tensors] : out) {
    std::ranges::sort(tensors, {}, [](const auto& item) -> const std::string& {
      return item.first;
    });
  }
  return out;
}

void unpack(std::vector<DiskTensor>& disk, const TensorsByFile& tensors,
            const std::string& folder, Delta& delta) {
  std::map<std::string, std::set<std::string>> there;
  std::map<std::pair<std::string, std::string>, at::Tensor> by_name;
  for (const auto& [file, list] : tensors) {
    for (const auto& [name, tensor] : list) {
      there[file].insert(name);
      by_name[{file, name}] = tensor;
    }
  }
  for (DiskTensor& d : disk) {
    d.name = name_on_disk(d, there[d.file]);
    const auto found = by_name.find({d.file, d.name});
    if (found == by_name.end()) {
      fail<UsageError>("{}: tensor '{}' is missing", path_of(folder, d.file),
                       d.name);
    }
    const at::Tensor numbers =
        checked(d, found->second, path_of(folder, d.file));
    for (const Piece& piece : d.pieces) {
      entry_of(delta.values(), delta, piece)
          .copy_(part(numbers, piece).reshape({-1}));
    }
    by_name.erase(found);
  }
  if (by_name.empty()) return;
  const auto& [file, name] = by_name.begin()->first;
  std::vector<std::string> known;
  for (const DiskTensor& d : disk) {
    if (d.file == file) known.push_back(d.name);
  }
  fail<UsageError>(
      "{}: tensor '{}' has no place in this model with the folder's "
      "adapter_config.json{}",
      path_of(folder, file), name,
      known.empty() ? ""
                    : fmt::format(" (the nearest that has is '{}')",
                                  nearest(name, known)));
}

void require_all_placed(const std::vector<DiskTensor>& disk, const Delta& delta,
                        std::string_view format) {
  std::set<std::string> placed;
  for (const DiskTensor& d : disk) {
    for (const Piece& piece : d.pieces) placed.insert(piece.entry);
  }
  for (const DeltaEntry& e : delta.entries()) {
    if (placed.contains(e.name)) continue;
    fail<UsageError>(
        "'{}' trains in this delta, and {} has no place for it; merge the "
        "delta instead, or train without it",
        e.name, format);
  }
}

}  // namespace thinwire
