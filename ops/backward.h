// A hand-written backward in one call, so that kernels need no autograd
// headers. Internal to ops/.
#pragma once

#include <ATen/core/Tensor.h>

#include <functional>
#include <span>
#include <vector>

namespace thinwire {

// Whether anything computed from these must be recorded.
bool needs_graph(std::span<const at::Tensor> inputs);

// Computes the gradient of input i from `grad`, the output's, wherever
// needed[i]; other places stay undefined. Must not capture the output itself
// (a cycle); whatever it captures is freed once backward has run.
using Backward = std::function<std::vector<at::Tensor>(
    const at::Tensor& grad, const std::vector<bool>& needed)>;

// Makes `out`, fresh and computed outside autograd, the result of an operation
// on `inputs` with this backward. `twice`: backward itself is built from
// differentiable operations; else differentiating it throws InternalError.
// Returns out as it is when needs_graph(inputs) is false.
at::Tensor with_backward(at::Tensor out, std::vector<at::Tensor> inputs,
                         Backward backward, const char* name,
                         bool twice = false);

// The same, for an `out` that is used in many passes: backward runs any number
// of times, and what it captures lives as long as `out`.
at::Tensor with_lasting_backward(at::Tensor out, std::vector<at::Tensor> inputs,
                                 Backward backward, const char* name);

}  // namespace thinwire
