// The small delta that tests of gradients and optimizers share.
#pragma once

#include <ATen/core/Tensor.h>
#include <ATen/ops/arange.h>

#include <algorithm>

#include "peft/delta.h"

namespace thinwire::trial {

// Four entries of 3 numbers in three groups: plain; decayed to initial with a
// clip group of its own; active from step 2 only; of task 7 only.
inline Delta make_delta() {
  DeltaBuilder builder;
  const int plain = builder.group({.name = "plain"});
  const int own = builder.group({.name = "own",
                                 .lr_factor = 0.5,
                                 .decay_to_initial = true,
                                 .clip_group = "own"});
  const auto add = [&](const char* name, int group, Activity active) {
    DeltaEntry e;
    e.name = name;
    e.shape = {3};
    e.group = group;
    e.active = std::move(active);
    builder.add(e, at::arange(1, 4, at::kFloat));
  };
  add("a", plain, {});
  add("b", own, {});
  add("late", plain, {.tasks = {}, .from_step = 2});
  add("task", plain, {.tasks = {7}});
  return builder.build();
}

inline void fill_grads(Delta& delta, float value) {
  delta.zero_grads();
  for (const DeltaEntry& e : delta.entries()) {
    std::fill_n(delta.grads().mutable_data_ptr<float>() + e.offset, e.count,
                value);
  }
}

}  // namespace thinwire::trial
