// A delta as plain tensors of its model, for those who know neither Thinwire
// nor adapters: one safetensors file, tensors by HF's names.
#pragma once

#include <string>

#include "base/hash.h"
#include "peft/delta.h"

namespace thinwire {

enum class WeightsForm { kFull, kSparse };

// full: every tensor that the delta changes, whole, as the model has it with
// the delta. sparse: of a masked one NAME.index (I32; I64 of 2^31 numbers and
// more), ascending positions in the tensor as one row of numbers, and
// NAME.values, fp32, what stands there; others whole. Metadata names the
// backbone's identity. parameters: with the delta bound. Throws UsageError for
// an entry that is no tensor of the model, or IoError.
void write_weights_file(const std::string& path, const Delta& delta,
                        const Parameters& parameters, const Digest& backbone,
                        WeightsForm form);

}  // namespace thinwire
