#include "dist/finality.h"

#include <torch/csrc/autograd/function.h>
#include <torch/csrc/autograd/function_hook.h>
#include <torch/csrc/autograd/variable.h>

#include <mutex>
#include <unordered_set>
#include <utility>

#include "base/error.h"

namespace thinwire {
namespace {

using torch::autograd::Node;

// All nodes that a backward from `root` may run.
std::unordered_set<const Node*> reachable(const std::shared_ptr<Node>& root) {
  std::unordered_set<const Node*> seen;
  std::vector<const Node*> open;
  if (root != nullptr) open.push_back(root.get());
  while (!open.empty()) {
    const Node* node = open.back();
    open.pop_back();
    if (!seen.insert(node).second) continue;
    for (const torch::autograd::Edge& edge : node->next_edges()) {
      if (edge.is_valid()) open.push_back(edge.function.get());
    }
  }
  return seen;
}

}  // namespace

struct Finality::State {
  std::function<void(int)> final;
  std::mutex mutex;  // a device's backward runs in a thread of its own
  bool watching = false;
  std::vector<bool> done;
  std::vector<int> order;
  std::vector<std::string> names;

  void reached(int entry) {
    {
      const std::scoped_lock lock(mutex);
      if (!watching) return;
      const auto i = static_cast<std::size_t>(entry);
      // What was sent lacks this part: better no result than a wrong one.
      THINWIRE_ASSERT(
          !done[i], "'{}' got gradient in two parts in one backward", names[i]);
      done[i] = true;
      order.push_back(entry);
    }
    final(entry);
  }
};

namespace {

template <class State>
struct LeafHook : torch::autograd::PostAccumulateGradHook {
  LeafHook(std::shared_ptr<State> state, int entry)
      : state_(std::move(state)), entry_(entry) {}
  void operator()(const at::Tensor&) override { state_->reached(entry_); }

  std::shared_ptr<State> state_;
  int entry_;
};

}  // namespace

Finality::Finality(const Delta& delta, std::function<void(int entry)> final)
    : state_(std::make_shared<State>()) {
  state_->final = std::move(final);
  const int n = static_cast<int>(delta.entries().size());
  for (int e = 0; e < n; ++e) {
    leaves_.push_back(delta.leaf(e));
    state_->names.push_back(delta.entries()[static_cast<std::size_t>(e)].name);
    torch::autograd::impl::set_post_acc_grad_hooks(
        leaves_.back(), std::make_unique<LeafHook<State>>(state_, e));
  }
}

Finality::~Finality() {
  for (const at::Tensor& leaf : leaves_) {
    torch::autograd::impl::set_post_acc_grad_hooks(leaf, nullptr);
  }
}

void Finality::watch(const at::Tensor& loss) {
  const auto nodes =
      reachable(loss.defined() ? loss.grad_fn() : std::shared_ptr<Node>());
  std::vector<int> at_once;
  {
    const std::scoped_lock lock(state_->mutex);
    state_->watching = true;
    state_->order.clear();
    state_->done.assign(leaves_.size(), false);
    for (std::size_t e = 0; e < leaves_.size(); ++e) {
      const auto node =
          torch::autograd::impl::try_get_grad_accumulator(leaves_[e]);
      if (node != nullptr && nodes.contains(node.get())) continue;
      state_->done[e] = true;
      at_once.push_back(static_cast<int>(e));
    }
  }
  for (const int e : at_once) state_->final(e);
}

void Finality::stop() {
  const std::scoped_lock lock(state_->mutex);
  state_->watching = false;
}

const std::vector<int>& Finality::order() const { return state_->order; }

}  // namespace thinwire
