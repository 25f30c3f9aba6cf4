// What prefix tuning keeps in a delta for one attention, and the keys and
// values made of it. Internal to the method and to those who write it in other
// formats.
#pragma once

#include <ATen/core/Tensor.h>

#include <string>
#include <utility>

#include "models/sites.h"
#include "peft/delta.h"

namespace thinwire {

// AdapterHub's names, with `thinwire` as the adapter's.
struct PrefixNames {
  explicit PrefixNames(const Site& site);

  std::string embedding() const { return group + "wte.weight"; }
  std::string inner() const { return group + "control_trans.0."; }
  std::string outer() const { return layer + "control_trans.2."; }
  std::string keys() const { return layer + "keys"; }
  std::string values() const { return layer + "values"; }

  std::string group, layer;
};

class PrefixLeaves {
 public:
  PrefixLeaves(const Delta& delta, const Site& site, bool reparametrised);
  // Keys and values, each [length, I]; differentiable.
  std::pair<at::Tensor, at::Tensor> keys_values() const;

 private:
  at::Tensor keys_, values_;  // that train themselves; else:
  at::Tensor embedding_, inner_, inner_bias_, outer_, outer_bias_;
};

}  // namespace thinwire
