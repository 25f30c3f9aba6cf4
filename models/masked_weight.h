// A frozen weight of which the entries of a mask train: backward computes their
// gradient and no other.
#pragma once

#include <memory>
#include <string_view>

#include "models/watched_weight.h"
#include "ops/mask_plan.h"

namespace thinwire {

class MaskedWeight : public WatchedWeight {
 public:
  // weight 1-D or 2-D, already holding the values; values fp32 [k] leaf; index
  // [k] flat positions as for make_mask_plan, which checks them.
  MaskedWeight(const at::Tensor& weight, at::Tensor values,
               const at::Tensor& index, std::string_view name);

  at::Tensor product(const at::Tensor& y, const at::Tensor& x,
                     at::ScalarType type, const Layout& layout,
                     WeightAxes axes) override;
  at::Tensor look_up(const at::Tensor& y, const at::Tensor& rows,
                     const Layout& layout, std::int64_t ignored) override;
  at::Tensor added(const at::Tensor& y, const Layout& layout) override;
  at::Tensor scaled(const at::Tensor& y, std::function<at::Tensor()> normal,
                    const Layout& layout) override;
  Sampled sampled(at::ScalarType type, const Layout& layout) override;

  // The positions, where the weight is.
  const at::Tensor& index() const { return plan_->index; }

 private:
  at::Tensor values_;
  std::shared_ptr<const MaskPlan> plan_;
};

}  // namespace thinwire
