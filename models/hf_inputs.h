// Batches by HF's names and shapes, in and out: what HF's forward() takes as
// padded tensors becomes packed streams, and packed rows become padded again.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

#include "models/backbone.h"
#include "models/safetensors.h"

namespace thinwire {

// Where a stream's rows stand in HF's [B, L] tensors.
struct HfCells {
  std::int64_t batch = 0, length = 0;
  at::Tensor rows;  // int64 [T]: b * L + i of row t
  // Some sequence's cell 0 is hidden. HF's BERT pools that hidden cell, we the
  // first token that is not: pooled outputs then differ by definition.
  bool first_hidden = false;

  // x [T, …] -> [B, L, …]; zeros where a mask hid the cell. Differentiable.
  at::Tensor pad(const at::Tensor& x) const;
};

struct HfBatch {
  BackboneInput input;  // labels as the tasks read them, where given
  HfCells encoder, decoder;
};

// Known names: input_ids [B, L], attention_mask, token_type_ids (BERT), labels
// ([B] or [B, 1]; encoder-decoders: [B, M], -100 ignored; GPT-2 also [B, L], of
// which row t of the stream gets what stands behind its cell, as HF shifts
// them), decoder_input_ids, decoder_attention_mask (encoder-decoders; without
// decoder_input_ids the labels shifted right, -100 read as padding). Cells that
// a mask hides are dropped, the others keep their positions. Sample ids are 0,
// 1, … . Throws UsageError naming tensor, place and what would be right.
HfBatch read_hf_inputs(const NamedTensors& tensors, const ModelConfig& config);

}  // namespace thinwire
