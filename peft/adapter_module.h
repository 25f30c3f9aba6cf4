// Bottleneck adapters: f(z) = act(z W_down^T + b_down) W_up^T + b_up, put into
// the residual branch of sublayers. Houlsby's and Pfeiffer's methods are two
// places for the same module.
// Shapes: W_down [m, d], W_up [d, m]; 2 m d + m + d numbers each.
#pragma once

#include <memory>
#include <string_view>

#include "peft/method.h"

namespace thinwire {

enum class AdapterPlace {
  kEverySublayer,  // attention and feed-forward: u + f(u)
  kFeedForward,    // feed-forward alone: u + f(norm(x + u))
};

// config: bottleneck, reduction_factor, non_linearity, init_std, layer_norms,
// train_head, and cross_adapter for kEverySublayer. Entry names are those of
// AdapterHub with `thinwire` as the adapter's name. Throws UsageError.
std::unique_ptr<Method> make_adapter_method(std::string_view id,
                                            AdapterPlace place,
                                            const Config& config);

}  // namespace thinwire
