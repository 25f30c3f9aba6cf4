#include "ops/backward.h"

#include <ATen/core/grad_mode.h>
#include <torch/csrc/autograd/function.h>
#include <torch/csrc/autograd/functions/utils.h>

#include <memory>
#include <string>
#include <utility>

#include "base/error.h"

namespace thinwire {
namespace {

class BackwardNode : public torch::autograd::Node {
 public:
  BackwardNode(Backward backward, const char* name, bool twice, bool lasts)
      : backward_(std::move(backward)),
        name_(name),
        twice_(twice),
        lasts_(lasts) {}

  std::string name() const override { return name_; }

  torch::autograd::variable_list apply(
      torch::autograd::variable_list&& grads) override {
    torch::autograd::variable_list out(num_outputs());
    if (!grads[0].defined()) return out;
    THINWIRE_ASSERT(backward_, "{}: backward ran twice; its buffers are gone",
                    name_);
    THINWIRE_ASSERT(twice_ || !at::GradMode::is_enabled(),
                    "{} has no second derivative", name_);
    std::vector<bool> needed(num_outputs());
    for (std::size_t i = 0; i < needed.size(); ++i) {
      needed[i] = task_should_compute_output(i);
    }
    std::vector<at::Tensor> result = backward_(grads[0], needed);
    for (std::size_t i = 0; i < result.size(); ++i) {
      out[i] = std::move(result[i]);
    }
    return out;
  }

  void release_variables() override {
    if (!lasts_) backward_ = nullptr;
  }

 private:
  Backward backward_;
  const char* name_;
  bool twice_, lasts_;
};

at::Tensor record(at::Tensor out, const std::vector<at::Tensor>& inputs,
                  Backward backward, const char* name, bool twice, bool lasts) {
  if (!needs_graph(inputs)) return out;
  std::shared_ptr<torch::autograd::Node> node(
      new BackwardNode(std::move(backward), name, twice, lasts),
      torch::autograd::deleteNode);
  node->set_next_edges(torch::autograd::collect_next_edges(inputs));
  torch::autograd::set_history(out, node);
  return out;
}

}  // namespace

bool needs_graph(std::span<const at::Tensor> inputs) {
  if (!at::GradMode::is_enabled()) return false;
  for (const at::Tensor& input : inputs) {
    if (input.defined() && input.requires_grad()) return true;
  }
  return false;
}

at::Tensor with_backward(at::Tensor out, std::vector<at::Tensor> inputs,
                         Backward backward, const char* name, bool twice) {
  return record(std::move(out), inputs, std::move(backward), name, twice,
                /*lasts=*/false);
}

at::Tensor with_lasting_backward(at::Tensor out, std::vector<at::Tensor> inputs,
                                 Backward backward, const char* name) {
  return record(std::move(out), inputs, std::move(backward), name,
                /*twice=*/false, /*lasts=*/true);
}

}  // namespace thinwire
