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

constexpr Field kFields[] = {
    {"bottleneck", FieldType::kInt, "~", "width m"},
    {"reduction_factor", FieldType::kFloat, "~",
     "instead: m = width / factor; default 16"},
    {"non_linearity", FieldType::kString, "relu",
     "gelu, gelu_new, relu, sigmoid, swish or tanh"},
    {"init_std", FieldType::kFloat, "0.02", "of the matrices; biases start 0"},
    {"layer_norms", FieldType::kBool, "false", "the layer norms train too"},
    {"train_head", FieldType::kBool, "true", "the task head trains too"},
};

}  // namespace

const MethodInfo& pfeiffer_method() {
  static const MethodInfo kInfo = {
      "pfeiffer", "one bottleneck per block (Pfeiffer et al. 2021)", kFields,
      [](const Config& config) -> std::unique_ptr<Method> {
        return make_adapter_method("pfeiffer", AdapterPlace::kFeedForward,
                                   config);
      }};
  return kInfo;
}

}  // namespace thinwire
