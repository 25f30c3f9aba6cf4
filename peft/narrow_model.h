// A model without the heads and channels that nothing reads, because all
// numbers that would are 0: a smaller one of its kind with the same outputs.
#pragma once

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "models/backbone.h"
#include "models/tensor_source.h"
#include "peft/method_tools.h"

namespace thinwire {

struct NarrowModel {
  std::shared_ptr<TensorSource> source;  // of its tensors, heads' too
  std::unique_ptr<Backbone> backbone;    // without a head; null: is as wide
  std::vector<std::string> said;         // what became of each width, a line
};

// The backbone's weights with `merged` in the place of their slots, fp32. Every
// layer keeps as many units as the one with the most that are read. Channels of
// feed-forwards go everywhere; heads in T5 alone, whose config has their width
// beside their number, and of a stack's self-attentions the same ones, since
// its layers share the relative biases.
NarrowModel narrow_model(const Backbone& backbone, const MergedSlots& merged);

}  // namespace thinwire
