// When the gradient of each entry is final in a backward pass.
//
// Before the pass the graph of the loss is walked for the leaves that it
// reaches; an entry that it does not reach (a layer dropped in this step,
// another task, no numbers at all) is final at once. The others are when
// autograd has added to their gradient: it does so once in a pass, however many
// uses a leaf has, a block that is computed again among them, as long as such a
// block takes the leaves as inputs of its node.
#pragma once

#include <functional>
#include <memory>
#include <vector>

#include "peft/delta.h"

namespace thinwire {

class Finality {
 public:
  // Hooks the delta's leaves until destroyed. final(e) is called once for each
  // entry and watched pass, from whatever thread runs it.
  Finality(const Delta& delta, std::function<void(int entry)> final);
  ~Finality();
  Finality(const Finality&) = delete;
  Finality& operator=(const Finality&) = delete;

  // The next backward is that of `loss` and the last of the step. A loss
  // without a graph makes everything final.
  void watch(const at::Tensor& loss);
  // The backward is over. Entries whose leaf got no gradient after all are
  // named by nobody.
  void stop();

  // Entries in the order in which the last watched pass made them final; those
  // that it did not reach are left out.
  const std::vector<int>& order() const;

 private:
  struct State;
  std::shared_ptr<State> state_;
  std::vector<at::Tensor> leaves_;
};

}  // namespace thinwire
