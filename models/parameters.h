// The parameter source: every weight a backbone or task head uses, by HF's
// on-disk name, and where its numbers come from in this run. No module owns a
// leaf; a block asks for its weight each time it runs.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/hash.h"
#include "models/masked_weight.h"
#include "models/matrix.h"
#include "models/scored_weight.h"

namespace thinwire {

struct ForwardContext;

// One tensor of a backbone, as its identity sees it.
struct TensorDigest {
  std::string name;  // HF's on-disk name
  at::ScalarType dtype = at::kFloat;
  std::vector<std::int64_t> shape;
  Digest digest;  // of its bytes
};

std::string_view dtype_name(
    at::ScalarType dtype);  // safetensors': "F32", "BF16", "I8"

Digest digest_of(const at::Tensor& tensor);  // its bytes; contiguous, on CPU
// The tensor's alone, or with the scales' where there are any.
Digest digest_of(const at::Tensor& tensor, const at::Tensor& scale);
Digest backbone_identity(std::vector<TensorDigest> tensors);

class Parameters {
 public:
  struct Slot {
    std::string name;  // HF's on-disk name, e.g. bert.pooler.dense.weight
    // Storage: fp32, or bf16 or int8 of a matrix; masked values are written
    // into it, rounded to its type. What trains is never int8.
    at::Tensor frozen;
    at::Tensor scale;                      // of int8: fp32 [out]
    WeightAxes axes = WeightAxes::kOutIn;  // of a matrix, as it lies
    std::function<at::Tensor()> exact;     // of int8: the file's values, bf16
    std::int64_t loaded_bytes = 0;         // as it came, with its scales
    bool head = false;                     // belongs to a task head
    bool buffer = false;                   // saved with the model, never trains
    // At most one of these, or compute on leaf; none: frozen.
    at::Tensor leaf;           // the whole tensor trains (dense delta entry)
    at::Tensor values, index;  // entries of it train (masked delta entry)
    std::shared_ptr<MaskedWeight> masked;  // beside them
    std::function<at::Tensor(const ForwardContext&)> compute;
    // Frozen, and backward looks at its gradient; the numbers stay as they are.
    mutable std::shared_ptr<ScoredWeight> scored;
  };

  // Returns the slot number. Throws InternalError on a second use of a name.
  int add(std::string name, at::Tensor frozen, bool head = false);
  int add_matrix(std::string name, Matrix matrix);  // that is no head's
  int add_buffer(std::string name, at::Tensor frozen);

  int find(std::string_view name) const;     // -1: none
  int require(std::string_view name) const;  // UsageError with nearest name
  int size() const { return static_cast<int>(slots_.size()); }
  const Slot& slot(int i) const { return slots_[static_cast<std::size_t>(i)]; }

  // What the forward pass uses now: frozen storage, leaf, masked_parameter(…)
  // or the computed tensor; shape as declared. int8 in fp32.
  at::Tensor get(int slot, const ForwardContext& ctx) const;
  // The same for those who show each use of the weight to `watch` where there
  // is one; it then is the tensor's only way to a gradient.
  struct Use {
    at::Tensor tensor;
    WatchedWeight* watch = nullptr;
    at::Tensor scale = {};                 // of an int8 tensor's outputs
    WeightAxes axes = WeightAxes::kOutIn;  // the tensor's
  };
  Use use(int slot, const ForwardContext& ctx) const;
  bool trains(int slot) const;

  // Switch the source of one slot; one with a leaf may be computed from it.
  // Throw UsageError naming the tensor if something else trains it already.
  void set_leaf(int slot, at::Tensor leaf);
  void set_masked(int slot, at::Tensor values, at::Tensor index);
  void set_computed(int slot,
                    std::function<at::Tensor(const ForwardContext&)> compute);
  // Null: no longer scored.
  void set_scored(int slot, std::shared_ptr<ScoredWeight> scored) const;
  ScoredWeight* scored(int i) const { return slot(i).scored.get(); }
  void freeze_all();  // every slot back to frozen
  // What training of the slot's numbers begins from: the frozen tensor, of int8
  // what the file holds.
  at::Tensor initial(int slot) const;
  // The slot's frozen tensor, for single numbers to be written into: initial()
  // takes the place of int8.
  at::Tensor writable(int slot);
  // Bytes of the frozen tensor: as it was added, int8 with its scales; once it
  // is writable.
  std::int64_t loaded_bytes(int slot) const;
  std::int64_t writable_bytes(int slot) const;
  // The same for what trained whole: an fp32 copy takes its place.
  at::Tensor widen(int slot);

  // Takes the frozen tensors to a device, once, before anything trains; their
  // identity is found before they go. What is bound afterwards lies there too.
  void move_to(at::Device device);
  at::Device device() const;

  // Numbers in all slots but buffers.
  std::int64_t count(bool with_head = true) const;
  // The backbone's identity: (name, shape, dtype, digest of the bytes) of every
  // slot that is not a head, sorted by name; int8 with its scales. Reads all
  // weights unless it was set; call before training.
  Digest identity() const;
  Digest digest(int slot) const;  // of the bytes of its frozen tensor
  // Found elsewhere, for the weights as they were loaded.
  void set_identity(Digest identity) { identity_ = identity; }

 private:
  int append(std::string name, at::Tensor frozen, bool head);
  Slot& untrained(int slot);  // throws if something trains it

  std::optional<Digest> identity_;
  std::vector<Slot> slots_;
  std::map<std::string, int, std::less<>> numbers_;
};

}  // namespace thinwire
