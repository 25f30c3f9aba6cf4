// Looks at a gradient on its way back.
#pragma once

#include <ATen/core/Tensor.h>

#include <functional>

namespace thinwire {

// y itself, such that backward calls see(gradient of y) once and passes the
// gradient on unchanged. `leaf` requires grad, so that backward comes here even
// where nothing below y asks for it; it gets no gradient. `see` and what it
// captures are freed once it has run. Without a graph (evaluation) y as it is.
at::Tensor tap_gradient(const at::Tensor& y, const at::Tensor& leaf,
                        std::function<void(const at::Tensor& grad)> see);

// y itself, such that backward passes its gradient on unchanged and gives
// `leaf` what gradient(out, gradient of y) writes into out, fp32 of leaf's
// shape.
at::Tensor tap_gradient_of(
    const at::Tensor& y, const at::Tensor& leaf,
    std::function<void(at::Tensor& out, const at::Tensor& grad)> gradient);

}  // namespace thinwire
