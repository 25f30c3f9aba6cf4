// Dropout of what a path beside a linear layer reads (LoRA, VeRA): in training
// alone, drawn from the counter, so packing and ranks do not matter.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <string>

#include "models/sites.h"

namespace thinwire {

class InputDropout {
 public:
  // p in [0, 1); name: of the dropout's own site, as SITE.lora_dropout.
  InputDropout(double p, const std::string& name);
  bool acts(const ForwardContext& ctx) const { return ctx.training && p_ > 0; }
  // x [T, d_in], rows of ctx.layout, or [B, d_in], one of each sequence.
  at::Tensor operator()(const at::Tensor& x, const ForwardContext& ctx) const;

 private:
  double p_;
  std::uint32_t site_;
};

// Throws UsageError for a p outside [0, 1).
double checked_dropout(double p, const char* method);

}  // namespace thinwire
