// Activation checkpointing. Chen et al. 2016, "Training deep nets with
// sublinear memory cost", sec. 3: of a part of the model only the inputs are
// kept, and backward computes it again.
#pragma once

#include <ATen/core/Tensor.h>

#include <functional>
#include <vector>

namespace thinwire {

// One output, computed from the inputs, leaves of the graph, and numbers that
// are outside it. Called once forward and once in backward, where it must
// compute the same again; what it refers to must live as long as the graph.
using CheckpointedPart =
    std::function<at::Tensor(const std::vector<at::Tensor>& inputs)>;

// part(inputs), keeping the inputs and no activation of its inside. Tensors
// that `part` takes from elsewhere and that have a graph must be among the
// inputs (undefined ones are passed on): their gradient is lost otherwise. The
// leaves that it uses become inputs of the one node that the graph gets, so
// that backward adds to each once, as without. Differentiable once.
at::Tensor checkpoint(const CheckpointedPart& part,
                      std::vector<at::Tensor> inputs);

}  // namespace thinwire
