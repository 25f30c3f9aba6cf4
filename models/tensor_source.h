// Where a backbone's tensors come from: an HF folder, or random values by name.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "base/hash.h"
#include "models/matrix.h"

namespace thinwire {

struct Init {  // of a tensor that is not in any file
  enum class Kind { kNormal, kZeros, kOnes } kind = Kind::kNormal;
  float std = 0.02f;
};

class TensorSource {
 public:
  virtual ~TensorSource() = default;
  // What get() gives for a tensor of this shape.
  virtual at::ScalarType dtype(const std::vector<std::int64_t>& shape) const;
  // dtype(shape) [shape], writable without touching what other processes see.
  // The first of `names` (HF on-disk names, the canonical one first, then older
  // spellings) that exists. Throws UsageError (file, name, shape found and
  // expected). Undefined tensor when none exists and `required` is false.
  virtual at::Tensor get(const std::vector<std::string>& names,
                         const std::vector<std::int64_t>& shape,
                         const Init& init, bool required = true) = 0;
  virtual bool contains(std::string_view name) const = 0;

  // A linear layer's matrix: as get() gives it, or int8 where has_int8().
  // shape: as it lies.
  virtual Matrix matrix(const std::vector<std::string>& names,
                        const std::vector<std::int64_t>& shape,
                        const Init& init,
                        WeightAxes axes = WeightAxes::kOutIn) {
    return {get(names, shape, init), {}, {}, axes};
  }
  virtual bool has_int8() const { return false; }

  // The tensor as it lies in its file, in the file's dtype; undefined where
  // values are made up. Where the file has it aligned it shares the mapping,
  // and its storage is not resizable. Throws as get() does.
  virtual at::Tensor stored(const std::vector<std::string>& names,
                            const std::vector<std::int64_t>& shape) {
    return {};
  }
  // Whether both exist and hold the same bytes; `others` as in get().
  virtual bool same(const std::string& name,
                    const std::vector<std::string>& others,
                    const std::vector<std::int64_t>& shape) {
    return false;
  }
  // Paths of all files that the values depend on.
  virtual std::vector<std::string> files() const { return {}; }
};

// path: folder with model.safetensors or model.safetensors.index.json. fp32
// tensors are mapped, fp16 and bf16 converted. Base-model checkpoints without
// the architecture's prefix ("bert.") are found too.
std::unique_ptr<TensorSource> open_hf_folder(const std::string& path,
                                             std::string_view prefix);
// The same with matrices rounded to bf16; what is bf16 in its file is mapped.
std::unique_ptr<TensorSource> bf16_matrices(
    std::shared_ptr<TensorSource> source);
// The same with linear layers' matrices in int8 (ops/quantise.h).
std::unique_ptr<TensorSource> int8_matrices(
    std::shared_ptr<TensorSource> source);
// dtype: fp32 | bf16 | int8.
std::shared_ptr<TensorSource> matrices_in(std::string_view dtype,
                                          std::shared_ptr<TensorSource> source);
// Values are a function of (seed, name) alone, and of this version: it goes up
// when the same seed gives other values.
inline constexpr int kRandomSourceVersion = 1;
std::unique_ptr<TensorSource> random_source(std::uint64_t seed);

}  // namespace thinwire
