// Compacter: Houlsby's adapters with maps that are sums of Kronecker products,
// whose first factors the whole model shares and whose second are of rank 1.
// self_attention: false is Compacter++.
// Karimi Mahabadi, Henderson & Ruder 2021, "Compacter: Efficient low-rank
// hypercomplex adapter layers", sec. 4. Initial values as in the reference
// code; layer norms train too. Near-identity at step 0.
#include "peft/adapter_module.h"

namespace thinwire {
namespace {

constexpr auto kFields = with(adapter_fields({.non_linearity = "gelu_new",
                                              .self_attention = "true",
                                              .layer_norms = "true"}),
                              hypercomplex_fields("4", "1", "true"));

constexpr AdapterPreset kPreset{.id = "compacter",
                                .input = AdapterInput::kOutput,
                                .reduction_factor = 32,
                                .hypercomplex = true};

}  // namespace

const MethodInfo& compacter_method() {
  static const MethodInfo kInfo = {
      "compacter",
      "low-rank hypercomplex adapters (Karimi Mahabadi et al. 2021)", kFields,
      [](const Config& config) -> std::unique_ptr<Method> {
        return make_adapter_method(kPreset, config);
      }};
  return kInfo;
}

}  // namespace thinwire
