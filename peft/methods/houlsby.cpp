// Houlsby adapters: a bottleneck after every attention and feed-forward
// sublayer, before its residual; u becomes u + f(u).
// Houlsby et al. 2019, "Parameter-efficient transfer learning for NLP", sec. 2.
// Layer norms and the head train too, as in the paper. Encoder-decoders: both
// stacks, no adapter after cross-attention unless asked for, as in the T5
// reproductions of the Compacter and HyperFormer papers.
// Differs: normal instead of truncated normal initial values. Near-identity at
// step 0, not identity.
#include "peft/adapter_module.h"

namespace thinwire {
namespace {

constexpr Field kFields[] = {
    {"bottleneck", FieldType::kInt, "~", "width m; default 64"},
    {"reduction_factor", FieldType::kFloat, "~", "instead: m = width / factor"},
    {"non_linearity", FieldType::kString, "gelu",
     "gelu, gelu_new, relu, sigmoid, swish or tanh"},
    {"init_std", FieldType::kFloat, "0.01", "of the matrices; biases start 0"},
    {"cross_adapter", FieldType::kBool, "false",
     "one after cross-attention as well"},
    {"layer_norms", FieldType::kBool, "true", "the layer norms train too"},
    {"train_head", FieldType::kBool, "true", "the task head trains too"},
};

}  // namespace

const MethodInfo& houlsby_method() {
  static const MethodInfo kInfo = {
      "houlsby", "bottlenecks after every sublayer (Houlsby et al. 2019)",
      kFields, [](const Config& config) -> std::unique_ptr<Method> {
        return make_adapter_method("houlsby", AdapterPlace::kEverySublayer,
                                   config);
      }};
  return kInfo;
}

}  // namespace thinwire
