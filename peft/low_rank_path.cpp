#define TORCH_ASSERT_ONLY_METHOD_OPERATORS
#include "peft/low_rank_path.h"

#include <ATen/ops/linear.h>

#include <utility>

namespace thinwire {

LowRankPath::LowRankPath(at::Tensor a, at::Tensor b, double scale,
                         double dropout, const std::string& dropout_site,
                         Gate gate)
    : a_(std::move(a)),
      b_(std::move(b)),
      scale_(scale),
      dropout_(dropout, dropout_site),
      gate_(std::move(gate)) {}

at::Tensor LowRankPath::path(const at::Tensor& x, const ForwardContext& ctx) {
  return at::linear(gate_(at::linear(dropout_(x, ctx), a_).mul(scale_)), b_);
}

LowRank LowRankPath::low_rank(const ForwardContext& ctx) {
  if (dropout_.acts(ctx) || gate_.all.defined()) return {};
  return {a_, b_, scale_};
}

}  // namespace thinwire
