#include "ops/checkpoint.h"

#include <ATen/core/grad_mode.h>
#include <torch/csrc/autograd/autograd.h>
#include <torch/csrc/autograd/function.h>
#include <torch/csrc/autograd/functions/accumulate_grad.h>

#include <unordered_set>
#include <utility>

#include "base/error.h"
#include "ops/backward.h"

namespace thinwire {
namespace {

using torch::autograd::AccumulateGrad;
using torch::autograd::Node;

// The same numbers as leaves of their own.
std::vector<at::Tensor> cut_off(const std::vector<at::Tensor>& inputs) {
  std::vector<at::Tensor> out;
  for (const at::Tensor& x : inputs) {
    out.push_back(x.defined() ? x.detach().set_requires_grad(x.requires_grad())
                              : at::Tensor());
  }
  return out;
}

// Leaves that `out` was computed from, `inputs` aside, in the order in which a
// walk meets them.
std::vector<at::Tensor> leaves_of(const at::Tensor& out,
                                  const std::vector<at::Tensor>& inputs) {
  std::unordered_set<const c10::TensorImpl*> known;
  for (const at::Tensor& x : inputs) known.insert(x.unsafeGetTensorImpl());
  std::vector<at::Tensor> leaves;
  std::unordered_set<const Node*> seen;
  std::vector<Node*> open{out.grad_fn().get()};
  while (!open.empty()) {
    Node* node = open.back();
    open.pop_back();
    if (node == nullptr || !seen.insert(node).second) continue;
    if (const auto* leaf = dynamic_cast<const AccumulateGrad*>(node)) {
      if (!known.contains(leaf->variable.unsafeGetTensorImpl())) {
        leaves.push_back(leaf->variable);
      }
    }
    for (const auto& edge : node->next_edges()) {
      open.push_back(edge.function.get());
    }
  }
  return leaves;
}

}  // namespace

at::Tensor checkpoint(const CheckpointedPart& part,
                      std::vector<at::Tensor> inputs) {
  if (!at::GradMode::is_enabled()) return part(inputs);
  // Recorded, and let go at once: which leaves a part uses may differ from one
  // pass to the next.
  std::vector<at::Tensor> leaves;
  at::Tensor out;
  {
    const std::vector<at::Tensor> own = cut_off(inputs);
    const at::Tensor recorded = part(own);
    if (!recorded.requires_grad()) return recorded;
    leaves = leaves_of(recorded, own);
    out = recorded.variable_data();
  }
  std::vector<at::Tensor> all = inputs;
  all.insert(all.end(), leaves.begin(), leaves.end());
  // Their graph is behind the node's edges already.
  std::vector<at::Tensor> kept = cut_off(inputs);
  return with_backward(
      std::move(out), std::move(all),
      [part, kept = std::move(kept), leaves = std::move(leaves)](
          const at::Tensor& grad, const std::vector<bool>& needed) {
        const std::vector<at::Tensor> own = cut_off(kept);
        at::Tensor again;
        {
          const at::AutoGradMode record(true);
          again = part(own);
        }
        std::vector<at::Tensor> wanted;
        for (std::size_t i = 0; i < needed.size(); ++i) {
          if (!needed[i]) continue;
          wanted.push_back(i < own.size() ? own[i] : leaves[i - own.size()]);
        }
        auto found = torch::autograd::grad(
            {again}, wanted, {grad}, std::nullopt,
            /*create_graph=*/false, /*allow_unused=*/true);
        std::vector<at::Tensor> result(needed.size());
        std::size_t next = 0;
        for (std::size_t i = 0; i < needed.size(); ++i) {
          if (needed[i]) result[i] = std::move(found[next++]);
        }
        return result;
      },
      "checkpoint");
}

}  // namespace thinwire
