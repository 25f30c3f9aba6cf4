// The head of sentence-level tasks, as HF's *ForSequenceClassification: dropout
// on the pooled vector, then one linear layer, `classifier`; RoBERTa's:
// `classifier.dense` with tanh and dropout before `classifier.out_proj`;
// GPT-2's: `score`, without dropout or bias, on the last token. And what such
// tasks share.
#pragma once

#include <cstdint>
#include <string_view>

#include "models/backbone.h"
#include "models/tensor_source.h"
#include "tasks/task.h"

namespace thinwire {

class PooledHead {
 public:
  // Adds the head's weights and biases to the backbone, the last layer's
  // [outputs, d]: the checkpoint's, else weights normal with the model's own
  // spread, as a function of (seed, name), and zero bias. Throws UsageError
  // where the backbone is an encoder-decoder, naming `kind`.
  void add(Backbone& backbone, TensorSource& source, std::int64_t outputs,
           std::uint64_t seed, std::string_view kind);
  // [B, outputs]
  at::Tensor forward(Backbone& backbone, const BackboneInput& in,
                     const ForwardContext& ctx) const;

 private:
  int dense_ = -1, last_ = -1;  // linear sites
};

// A task whose logits are the head's outputs, [B, outputs].
class PooledTask : public Task {
 public:
  PooledTask(std::int64_t outputs, std::uint64_t head_seed)
      : outputs_(outputs), head_seed_(head_seed) {}

  void add_head(Backbone& backbone, TensorSource& source) override {
    head_.add(backbone, source, outputs_, head_seed_, kind());
  }
  at::Tensor logits(Backbone& backbone, const BackboneInput& in,
                    const ForwardContext& ctx) override {
    return head_.forward(backbone, in, ctx);
  }

 protected:
  const std::int64_t outputs_;

 private:
  const std::uint64_t head_seed_;
  PooledHead head_;
};

}  // namespace thinwire
