// Where the numbers of a delta lie in the tensors of another format's files:
// one list that serves reading, writing and gradients alike.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "models/safetensors.h"
#include "peft/delta.h"

namespace thinwire {

// An entry of the delta as [start, start + length) of a tensor's dimension
// `dim`; length -1: the tensor as a whole.
struct Piece {
  std::string entry;
  std::int64_t dim = 0, start = 0, length = -1;
};

// What no piece covers is written as 0 and not read.
struct DiskTensor {
  std::string file;  // within the folder
  std::string name;
  std::vector<std::string> also;  // other names it is read by
  std::vector<std::int64_t> shape;
  std::vector<Piece> pieces;
};

// A whole tensor that is one entry.
DiskTensor disk_tensor(std::string file, std::string name,
                       const DeltaEntry& entry);

using TensorsByFile = std::map<std::string, NamedTensors>;

// The numbers of `flat` [delta.size()], its values or gradients; tensors of a
// file in order of their names. fp32.
TensorsByFile pack(const std::vector<DiskTensor>& disk, const Delta& delta,
                   const at::Tensor& flat);

// The other way, into the delta's values. Throws UsageError (path and tensor)
// for a tensor that is missing, of another shape, of no floating type or with
// numbers that are not finite, and for one that no entry asks for.
// folder: for messages.
void unpack(std::vector<DiskTensor>& disk, const TensorsByFile& tensors,
            const std::string& folder, Delta& delta);

// Throws UsageError naming an entry without a place. format: for the message.
void require_all_placed(const std::vector<DiskTensor>& disk, const Delta& delta,
                        std::string_view format);

}  // namespace thinwire
