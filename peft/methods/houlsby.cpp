// Houlsby adapters: a bottleneck after every attention and feed-forward
// sublayer, before its residual; u becomes u + f(u).
// Houlsby et al. 2019, "Parameter-efficient transfer learning for NLP", sec. 2.
// Layer norms and the head train too, as in the paper. Encoder-decoders: both
// stacks, no adapter after cross-attention unless asked for, as in the T5
// reproductions of the Compacter and HyperFormer papers.
// Differs: normal instead of truncated normal initial values. Near-identity at
// step 0, not identity.
// AdapterDrop (Rücklé et al. 2021, "AdapterDrop: On the efficiency of adapters
// in transformers", sec. 3) is drop_first and robust_drop, of every adapter.
#include "peft/adapter_module.h"

namespace thinwire {
namespace {

constexpr auto kFields = with(adapter_fields({.non_linearity = "gelu",
                                              .self_attention = "true",
                                              .layer_norms = "true"}),
                              matrix_fields("normal", "0.01"));

constexpr AdapterPreset kPreset{
    .id = "houlsby", .input = AdapterInput::kOutput, .bottleneck = 64};

}  // namespace

const MethodInfo& houlsby_method() {
  static const MethodInfo kInfo = {
      "houlsby", "bottlenecks after every sublayer (Houlsby et al. 2019)",
      kFields, [](const Config& config) -> std::unique_ptr<Method> {
        return make_adapter_method(kPreset, config);
      }};
  return kInfo;
}

}  // namespace thinwire
