// Parallel adapters: a bottleneck beside the feed-forward sublayer; u becomes
// u + s f(x). s = 1: parallel; s = 4 (2 on RoBERTa): scaled parallel.
// He et al. 2022, "Towards a unified view of parameter-efficient transfer
// learning", secs. 3.3 and 4.6. With prefixes: mam.cpp.
// Reads the residual stream, as the reference code does: post-norm models'
// sublayers read it too, pre-norm models' (T5, GPT-2) read its norm. Step 0
// equals the backbone.
#include "peft/adapter_module.h"

namespace thinwire {
namespace {

constexpr auto kFields = with(adapter_fields({.non_linearity = "relu",
                                              .self_attention = "false",
                                              .layer_norms = "false"}),
                              matrix_fields("lora", "0.02"));

constexpr AdapterPreset kPreset{.id = "parallel_adapter",
                                .input = AdapterInput::kResidual,
                                .reduction_factor = 2};

}  // namespace

const MethodInfo& parallel_adapter_method() {
  static const MethodInfo kInfo = {
      "parallel_adapter",
      "a bottleneck beside each feed-forward layer (He et al. 2022)", kFields,
      [](const Config& config) -> std::unique_ptr<Method> {
        return make_adapter_method(kPreset, config);
      }};
  return kInfo;
}

}  // namespace thinwire
