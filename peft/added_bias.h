// A bias that a linear layer gets besides its own, or in place of none.
#pragma once

#include <ATen/core/Tensor.h>

#include <utility>

#include "models/sites.h"
#include "peft/gate.h"

namespace thinwire {

class AddedBias : public LinearAttachment {
 public:
  explicit AddedBias(at::Tensor bias, Gate gate = {})
      : bias_(std::move(bias)), gate_(std::move(gate)) {}
  at::Tensor bias(const ForwardContext&) override { return gate_(bias_); }

 private:
  at::Tensor bias_;  // [d_out]
  Gate gate_;
};

}  // namespace thinwire
