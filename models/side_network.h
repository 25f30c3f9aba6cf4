// A second network beside a backbone's stacks: it reads what they hold on the
// way, and makes the hidden states that go on in place of theirs. Sung, Cho &
// Bansal 2022, "LST: Ladder side-tuning for parameter and memory efficient
// transfer learning". T rows of the stream, d the backbone's width.
#pragma once

#include <ATen/core/Tensor.h>

#include <vector>

#include "models/sites.h"

namespace thinwire {

// What one pass through a stack shows.
struct StackStates {
  at::Tensor embeddings;            // [T, d] before dropout, rows inserted
  std::vector<at::Tensor> outputs;  // [T, d] of the layers that are read, the
                                    // lowest first
};

class SideNetwork {
 public:
  virtual ~SideNetwork() = default;
  // Whether the backbone's own stream runs as in evaluation in training passes.
  virtual bool stills_stream() const = 0;
  // Whether the network reads what the layer gives; nothing else is kept.
  virtual bool reads(Stack stack, int layer) const = 0;

  struct Output {
    at::Tensor hidden;  // [T, d] instead of the stack's; undefined: the stack's
    at::Tensor own;     // what the decoder's call gets as memory
  };
  // memory: `own` of the encoder's call, rows of ctx.memory; undefined there.
  virtual Output run(Stack stack, StackStates states, const at::Tensor& memory,
                     const ForwardContext& ctx) = 0;
};

}  // namespace thinwire
