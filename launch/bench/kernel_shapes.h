// Which tensors of a model a mask can lie in, and how many rows reach each in a
// training step.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace thinwire {

enum class KernelKind { kLinear, kEmbedding, kNorm, kBias };

struct KernelTensor {
  std::string name;   // HF's
  std::string group;  // tensors of one shape and use, as "decoder.wi"
  KernelKind kind = KernelKind::kLinear;
  std::int64_t out = 1, in = 0;  // vectors: out is 1
  std::int64_t rows = 0;         // of x and dy
};

struct KernelRows {
  std::int64_t batch = 8, input = 128, target = 32;  // tokens a sequence
};

// model: t5-small, t5-base, bert-base, minilm, or a config.json of a T5 or a
// BERT (or the folder that holds it). Throws UsageError or IoError.
std::vector<KernelTensor> kernel_tensors(const std::string& model,
                                         const KernelRows& rows);

}  // namespace thinwire
