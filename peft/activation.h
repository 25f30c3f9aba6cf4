// The non-linearities of adapters, by the names that HF transformers has for
// them.
#pragma once

#include <ATen/core/Tensor.h>

#include <string>
#include <string_view>

namespace thinwire {

using Activation = at::Tensor (*)(const at::Tensor&);

// gelu, gelu_new, relu, sigmoid, swish or tanh. Throws UsageError, with the
// method's id and the nearest known name.
Activation find_activation(std::string_view method, const std::string& name);

}  // namespace thinwire
