// A trained low-rank product beside a linear layer: y += s b (a dropout(x)),
// multiplied along with the layer's own matrix where nothing drops out and no
// gate stands before it.
// Shapes: a [r, d_in], b [d_out, r], x [T, d_in].
#pragma once

#include <ATen/core/Tensor.h>

#include <string>

#include "models/sites.h"
#include "peft/gate.h"
#include "peft/input_dropout.h"

namespace thinwire {

class LowRankPath : public LinearAttachment {
 public:
  // dropout: its rate, and the name of its site.
  LowRankPath(at::Tensor a, at::Tensor b, double scale, double dropout,
              const std::string& dropout_site, Gate gate = {});

  at::Tensor path(const at::Tensor& x, const ForwardContext& ctx) override;
  LowRank low_rank(const ForwardContext& ctx) override;

 private:
  at::Tensor a_, b_;
  double scale_;
  InputDropout dropout_;
  Gate gate_;
};

}  // namespace thinwire
