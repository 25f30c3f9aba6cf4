// What the tests over the registry share.
#pragma once

#include <string_view>

#include "peft/method.h"

namespace thinwire::testing {

// A method's config for a model of a few thousand numbers, whose widths are
// multiples of 4. text: a T5, which has no biases.
inline Config tiny_config(std::string_view method, bool text) {
  if (method == "fish_mask") return {{"density", 0.1}, {"samples", 3}};
  if (method == "bitfit" && text) {
    return {{"add_missing", true}};
  }
  if (method == "houlsby" || method == "pfeiffer") {
    return {{"bottleneck", 5}, {"init_std", 1e-3}};
  }
  if (method == "parallel_adapter") return {{"bottleneck", 5}};
  if (method == "compacter" || method == "phm_adapter") {
    return {{"bottleneck", 4}};
  }
  if (method == "prefix_tuning") return {{"length", 3}, {"bottleneck", 6}};
  if (method == "prompt_tuning") return {{"length", 3}};
  return Config::object();
}

}  // namespace thinwire::testing
