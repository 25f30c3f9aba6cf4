// The host weight store: one prepared form of a backbone per host, which all
// processes map. Where a model's files hold that form already (contiguous, of
// the dtype asked for), they are mapped themselves; else a prepared file is made in a cache
// folder (models/store_folder.h), by several processes together.
//
// A prepared file: "TWSTORE1", the length of the JSON that follows (uint64,
// little-endian), JSON {tensors: [{name, dtype, shape, offset, digest}]}, zeros
// up to a page, then the tensors, each at a page of its own, so that writing
// into one makes no page of another private. It appears under its name when it
// is whole.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "base/hash.h"
#include "models/atomic_file.h"
#include "models/config.h"
#include "models/tensor_source.h"

namespace thinwire {

struct StoreTensor {
  std::vector<std::string> names;  // HF's on-disk names, the canonical first
  std::vector<std::int64_t> shape;
  Init init;
  at::ScalarType dtype = at::kFloat;  // int8: a Matrix, its scales behind it
  WeightAxes axes = WeightAxes::kOutIn;
  std::int64_t bytes = 0;
  std::int64_t offset = 0;  // in a prepared file
  bool in_place = false;    // the model's file has it so, contiguous
};

// What a backbone asks of its source, in its order.
struct StorePlan {
  std::vector<StoreTensor> tensors;
  std::int64_t bytes = 0;       // of all tensors
  std::int64_t in_place = 0;    // of those that are mapped as they are
  std::int64_t file_bytes = 0;  // of a prepared file
};

// Reads no weight's numbers. Throws what the backbone would.
StorePlan plan_store(const ModelConfig& config, TensorSource& source);

// Indices of the plan's tensors, dealt over `workers` by their bytes.
std::vector<std::vector<std::size_t>> deal(const StorePlan& plan, int workers);

// digests: of the bytes, in the plan's order.
Digest identity_of(const StorePlan& plan, std::span<const Digest> digests);

// A prepared file in the making; not yet visible. All throw IoError.
class StoreWriter {
 public:
  // Creates the file with room for everything.
  static StoreWriter create(const std::string& temporary,
                            const StorePlan& plan);
  // Another process made it.
  static StoreWriter join(const std::string& temporary, const StorePlan& plan);
  // Writes tensor i; returns the digest of its bytes.
  Digest fill(std::size_t i, TensorSource& source);
  // When all tensors are filled: the header, and the name. Flushed to disk.
  void publish(std::span<const Digest> digests, const std::string& path);

 private:
  StoreWriter(File file, std::string temporary, const StorePlan& plan)
      : file_(std::move(file)),
        temporary_(std::move(temporary)),
        plan_(&plan) {}
  void write(const void* data, std::size_t bytes, std::int64_t offset);
  [[noreturn]] void die(const char* what) const;

  File file_;
  std::string temporary_;
  const StorePlan* plan_;
};

// The digests that a prepared file's header states; none if there is no such
// file, it is cut short, or it was made for another plan.
std::optional<std::vector<Digest>> read_store(const std::string& path,
                                              const StorePlan& plan);
// Digest of tensor i as the file has it now.
Digest hash_stored(TensorSource& store, const StorePlan& plan, std::size_t i);
// The mapped file; `original` goes on answering which names there are.
std::unique_ptr<TensorSource> open_store(
    const std::string& path, const StorePlan& plan,
    std::shared_ptr<TensorSource> original);

}  // namespace thinwire
