// PHM adapters: Houlsby's adapters with maps that are sums of Kronecker
// products, each with first and second factors of its own.
// Karimi Mahabadi, Henderson & Ruder 2021, "Compacter: Efficient low-rank
// hypercomplex adapter layers", sec. 3; the product: Zhang et al. 2021, "Beyond
// fully-connected layers with quaternions". Layer norms train too.
// Near-identity at step 0.
#include "peft/adapter_module.h"

namespace thinwire {
namespace {

constexpr auto kFields = with(adapter_fields({.non_linearity = "gelu_new",
                                              .self_attention = "true",
                                              .layer_norms = "true"}),
                              hypercomplex_fields("4", "0", "false"));

constexpr AdapterPreset kPreset{.id = "phm_adapter",
                                .input = AdapterInput::kOutput,
                                .reduction_factor = 32,
                                .hypercomplex = true};

}  // namespace

const MethodInfo& phm_adapter_method() {
  static const MethodInfo kInfo = {
      "phm_adapter", "hypercomplex adapters (Karimi Mahabadi et al. 2021)",
      kFields, [](const Config& config) -> std::unique_ptr<Method> {
        return make_adapter_method(kPreset, config);
      }};
  return kInfo;
}

}  // namespace thinwire
