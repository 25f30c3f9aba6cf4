// The delta: everything that trains, as one flat fp32 vector, and what lies
// where in it. The only word peft, comm and dist have in common.
//
// values [size] and grads [size] are contiguous; entry e owns
// [offset, offset + count), offsets are multiples of 4 numbers (16 bytes), the
// gaps between entries hold zeros for ever. Each entry has a leaf: a tensor
// over its range of `values` whose .grad lies over the same range of `grads`,
// made so that leaves do not share a version counter.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

#include "base/hash.h"

namespace thinwire {

class Parameters;
struct MaskedWrite;

enum class EntryKind { kDense, kMasked };
enum class Meaning { kAbsolute, kDifference };

// Numbers that are treated alike by the optimizer and the exchange.
struct DeltaGroup {
  std::string name;
  double lr_factor = 1;
  double weight_decay_factor = 1;  // times train.weight_decay
  bool decay_to_initial = false;   // else towards zero
  std::string clip_group = "all";  // one gradient norm per clip group
  std::string codec = "default";
  bool operator==(const DeltaGroup&) const = default;
};

// When an entry moves: otherwise its values and optimizer state stay bitwise
// still. Step bounds are of the run's step counter, [from, until).
struct Activity {
  std::vector<std::int32_t> tasks;  // empty: every task
  std::int64_t from_step = 0;
  std::int64_t until_step = INT64_MAX;
  bool operator==(const Activity&) const = default;
};

struct DeltaEntry {
  std::string name;  // same on every rank and in checkpoints
  EntryKind kind = EntryKind::kDense;
  std::vector<std::int64_t> shape;     // of the whole tensor it belongs to
  std::int64_t offset = 0, count = 0;  // its range, in numbers
  // Masked: sorted flat positions, int32 (int64 if the tensor has 2^31
  // elements or more), equal on all ranks. Dense: undefined. Masked without a
  // target: numbers of a tensor of the method's own; the others rest.
  at::Tensor index;
  std::string target;  // parameter slot it replaces, "" = none
  Meaning meaning = Meaning::kAbsolute;
  int group = 0;
  bool head = false;  // belongs to a task head
  Activity active;
};

// Name of the constant that says which worker moves each number of an entry,
// where workers move different ones: int32 [count], from 0.
std::string owner_constant(std::string_view entry);

// Name of the constant that says where the numbers rest that an entry masks
// out of a tensor of its method's own: fp32, of the tensor's shape, and unread
// at the mask. None: at 0.
std::string rest_constant(std::string_view entry);

// How a buffer is made equal (or not) across ranks when it is saved or agreed.
enum class BufferRule { kMean, kSum, kRankZero, kPerRank };

class Delta {
 public:
  // Moved, never copied: a copy would share the numbers. Leaves stay valid.
  Delta() = default;
  Delta(Delta&&) = default;
  Delta& operator=(Delta&&) = default;

  const std::vector<DeltaEntry>& entries() const { return entries_; }
  const std::vector<DeltaGroup>& groups() const { return groups_; }
  // Named tensors that a method made and froze: saved and agreed, never sent.
  const std::map<std::string, at::Tensor>& constants() const {
    return constants_;
  }
  void set_constant(const std::string& name, at::Tensor tensor);  // relayout
  struct Buffer {
    at::Tensor tensor;
    BufferRule rule;
  };
  std::map<std::string, Buffer>& buffers() { return buffers_; }
  const std::map<std::string, Buffer>& buffers() const { return buffers_; }
  // Configs of the methods that made it, JSON text, in order of attachment.
  const std::vector<std::string>& method_configs() const {
    return method_configs_;
  }

  std::int64_t size() const {  // gaps included
    return values_.defined() ? values_.numel() : 0;
  }
  std::int64_t trainable() const;  // gaps excluded
  at::Tensor& values() { return values_; }
  const at::Tensor& values() const { return values_; }
  at::Tensor& grads() { return grads_; }
  const at::Tensor& leaf(int entry) const {
    return leaves_[static_cast<std::size_t>(entry)];
  }
  int find(std::string_view name) const;  // entry index, -1: none
  // What a method reads: the leaf; of a masked entry without a target the
  // whole tensor, whose gradient comes to the leaf at the mask. InternalError:
  // none.
  const at::Tensor& leaf(std::string_view name) const;
  // A copy of the tensor that an entry without a target is of, fp32.
  at::Tensor whole(int entry) const;

  // Of entries, indices, constants and groups: ranks, checkpoints and clients
  // agree exactly when this agrees. Values are not in it.
  Digest hash() const;

  void zero_grads();  // memset of k floats; leaves keep their .grad

  // Gives the leaves and their gradients memory of their own, on `device`;
  // values and gradients stay in the CPU's, where ranks exchange them, an
  // optimizer moves them and files hold them. Before anything is bound.
  // Afterwards write_back() takes values to the leaves, pull_grads() their
  // gradients here.
  void place(at::Device device);
  bool placed() const { return placed_values_.defined(); }
  // Adds the leaves' gradients to grads(), and zeroes them. Not placed:
  // nothing.
  void pull_grads();

  // Points the parameter slots of every entry with a target at its leaf
  // (masked: writes the values into the frozen weight first), and writes the
  // constants that hold residues of earlier phases (peft/relayout.h). Without a
  // target, masked values are written into their whole tensors. Throws
  // UsageError naming the tensor if two entries want it, or if target or shape
  // do not exist in this backbone.
  void bind(Parameters& parameters) const;
  // Masked values into their frozen weights, rounded where these are bf16, and
  // into whole tensors of methods' own; placed: all values to the leaves first.
  // O(k).
  void write_back(Parameters& parameters) const;
  // Where that writes to, in order of the flat vector; valid while the
  // parameters and this stay as they are. Placed: nothing, write_back() does it
  // all.
  std::vector<MaskedWrite> masked_writes(Parameters& parameters) const;
  // At a phase boundary, before methods declare anew: the current value of
  // every tensor that trains into its frozen weight, and every slot back to
  // frozen. Attachments stay where they are.
  void unbind(Parameters& parameters) const;

  // O(k); of [size], else InternalError. swap() exchanges the values with those
  // of `other` [size].
  at::Tensor snapshot() const;
  void restore(const at::Tensor& snapshot);
  void swap(at::Tensor& other);

 private:
  friend class DeltaBuilder;
  std::vector<DeltaEntry> entries_;
  std::vector<DeltaGroup> groups_;
  std::map<std::string, at::Tensor> constants_;
  std::map<std::string, Buffer> buffers_;
  std::vector<std::string> method_configs_;
  // Leaves over these vectors.
  void make_leaves(const at::Tensor& values, const at::Tensor& grads);
  void fill_wholes() const;

  at::Tensor values_, grads_;
  at::Tensor placed_values_, placed_grads_;  // undefined: leaves are over those
  std::vector<at::Tensor> leaves_;
  // Of masked entries without a target; undefined elsewhere. The index lies
  // where the leaves do.
  struct Whole {
    at::Tensor tensor, index;
  };
  std::vector<Whole> wholes_;
};

// Collects what the methods of a run declare; build() lays it out in order of
// declaration. A method states its config first, so that messages can name it.
class DeltaBuilder {
 public:
  // Same group twice (by value) is one group. Returns its number.
  int group(const DeltaGroup& g);
  // initial: fp32, entry.shape (dense) or [k] (masked), copied by build();
  // offset and count are filled in here. Throws UsageError when the name or
  // target exists (naming both methods), InternalError when shapes disagree or
  // the index is not sorted and in range.
  int add(DeltaEntry entry, at::Tensor initial);
  void constant(std::string name, at::Tensor tensor);
  void buffer(std::string name, at::Tensor tensor, BufferRule rule);
  void method_config(std::string json);
  // What `declare` declares are parts of the method whose config was stated
  // last: the configs that they state are not the delta's.
  void parts(const std::function<void()>& declare);
  // Of the dense entries without a target that `declare` declares, those that
  // `masks` names become masked ones, at these positions; the rest of their
  // tensors stays as it begins, or is 0.
  using Masks = std::map<std::string, at::Tensor, std::less<>>;
  enum class Rest { kAsItBegins, kZero };
  void masked(const Masks& masks, Rest rest,
              const std::function<void()>& declare);
  bool trains(std::string_view target) const;  // some entry has this target
  Delta build();                               // leaves the builder empty

 private:
  std::string method_of(int entry) const;
  void mask_inside(DeltaEntry& entry, at::Tensor& initial);

  Delta delta_;
  std::vector<at::Tensor> initial_;
  std::vector<std::size_t> owners_;  // of each entry: configs stated before it
  std::unordered_map<std::string, int> by_name_, by_target_;
  std::int64_t size_ = 0;
  bool in_parts_ = false;
  const Masks* masks_ = nullptr;  // while masked() declares
  Rest rest_ = Rest::kZero;
};

// Bytes of the backbone's weights that masked entries are written into: pages
// that turn from shared ones into this rank's own, most of them, since masks
// are scattered. The same before the delta is bound and after.
struct MaskedBytes {
  std::int64_t before = 0, after = 0;  // int8 becomes bf16
  std::int64_t more() const { return after - before; }
};
MaskedBytes masked_bytes(const Parameters& parameters, const Delta& delta);

}  // namespace thinwire
