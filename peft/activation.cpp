#include "peft/activation.h"

#include <ATen/ops/gelu.h>
#include <ATen/ops/silu.h>

#include <vector>

#include "base/error.h"
#include "base/nearest.h"

namespace thinwire {

Activation find_activation(std::string_view method, const std::string& name) {
  struct Known {
    const char* name;
    Activation function;
  };
  static constexpr Known kKnown[] = {
      {"gelu", [](const at::Tensor& x) { return at::gelu(x); }},
      {"gelu_new", [](const at::Tensor& x) { return at::gelu(x, "tanh"); }},
      {"relu", [](const at::Tensor& x) { return x.relu(); }},
      {"sigmoid", [](const at::Tensor& x) { return x.sigmoid(); }},
      {"swish", [](const at::Tensor& x) { return at::silu(x); }},
      {"tanh", [](const at::Tensor& x) { return x.tanh(); }},
  };
  std::vector<std::string> names;
  for (const Known& k : kKnown) {
    if (k.name == name) return k.function;
    names.emplace_back(k.name);
  }
  fail<UsageError>("{}: non_linearity '{}' is unknown; choose one of: {}",
                   method, name, list_nearest_first(name, names));
}

}  // namespace thinwire
