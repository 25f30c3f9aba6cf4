#include "peft/prefix_entries.h"

#include <ATen/ops/linear.h>

namespace thinwire {

PrefixNames::PrefixNames(const Site& site)
    : group("prefix_tuning.prefix_tunings.thinwire." +
            std::string(site.role == Role::kCrossAttention ? "cross"
                        : site.stack == Stack::kEncoder    ? "encoder"
                                                           : "self") +
            "_prefix."),
      layer(group + std::to_string(site.layer) + ".") {}

PrefixLeaves::PrefixLeaves(const Delta& delta, const Site& site,
                           bool reparametrised) {
  const PrefixNames names(site);
  if (!reparametrised) {
    keys_ = delta.leaf(names.keys());
    values_ = delta.leaf(names.values());
    return;
  }
  embedding_ = delta.leaf(names.embedding());
  inner_ = delta.leaf(names.inner() + "weight");
  inner_bias_ = delta.leaf(names.inner() + "bias");
  outer_ = delta.leaf(names.outer() + "weight");
  outer_bias_ = delta.leaf(names.outer() + "bias");
}

// The inner layer is computed anew for every layer of the model: so little that
// it need not outlive the block, which may be computed again.
std::pair<at::Tensor, at::Tensor> PrefixLeaves::keys_values() const {
  if (keys_.defined()) return {keys_, values_};
  const at::Tensor inner = at::linear(embedding_, inner_, inner_bias_).tanh();
  const at::Tensor both = at::linear(inner, outer_, outer_bias_);
  const std::int64_t width = both.size(1) / 2;
  return {both.narrow(1, 0, width).contiguous(),
          both.narrow(1, width, width).contiguous()};
}

}  // namespace thinwire
