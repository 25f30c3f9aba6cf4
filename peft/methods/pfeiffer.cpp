// Pfeiffer adapters: one bottleneck per block, after the feed-forward sublayer;
// u becomes u + f(norm(x + u)).
// Pfeiffer et al. 2021, "AdapterFusion: Non-destructive task composition for
// transfer learning", sec. 2.2.2 and app. B; the convention is AdapterHub's
// `seq_bn`: post-norm models apply the block's own layer norm twice, pre-norm
// models (T5) have none to apply. Layer norms stay frozen, the head trains.
// Near-identity at step 0, not identity.
#include "peft/adapter_module.h"

namespace thinwire {
namespace {

constexpr auto kFields = with(adapter_fields({.non_linearity = "relu",
                                              .self_attention = "false",
                                              .layer_norms = "false"}),
                              matrix_fields("normal", "0.02"));

constexpr AdapterPreset kPreset{.id = "pfeiffer",
                                .input = AdapterInput::kNormedSum,
                                .reduction_factor = 16};

}  // namespace

const MethodInfo& pfeiffer_method() {
  static const MethodInfo kInfo = {
      "pfeiffer", "one bottleneck per block (Pfeiffer et al. 2021)", kFields,
      [](const Config& config) -> std::unique_ptr<Method> {
        return make_adapter_method(kPreset, config);
      }};
  return kInfo;
}

}  // namespace thinwire
