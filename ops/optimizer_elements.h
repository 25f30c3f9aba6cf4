// What an optimizer does to one number, for CPU and GPU alike: the same bits.
// Internal to ops/.
#pragma once

#include <cmath>

#if defined(__CUDACC__)
#define THINWIRE_HOST_DEVICE __host__ __device__
#else
#define THINWIRE_HOST_DEVICE
#endif

namespace thinwire {

struct AdamwFactors {  // in fp32, as the loop uses them
  float grad, keep, pull, beta1_rest, beta2, beta2_rest, inverse_root, epsilon,
      rate;
};

template <bool kTowards>
THINWIRE_HOST_DEVICE inline void adamw_element(float* value, float grad,
                                               float* m, float* v,
                                               const float* towards,
                                               const AdamwFactors& f) {
  const float g = grad * f.grad;
  float p = *value * f.keep;
  if constexpr (kTowards) p += f.pull * *towards;
  *m += f.beta1_rest * (g - *m);
  *v = f.beta2 * *v + f.beta2_rest * g * g;
  const float denominator = std::sqrt(*v) * f.inverse_root + f.epsilon;
  *value = p - f.rate * (*m / denominator);
}

struct SgdFactors {
  float rate, momentum, decay, grad;
  bool nesterov;
};

// velocity null: without momentum.
THINWIRE_HOST_DEVICE inline void sgd_element(float* value, float grad,
                                             float* velocity, float from,
                                             const SgdFactors& f) {
  const float g = grad * f.grad + f.decay * (*value - from);
  if (velocity == nullptr) {
    *value -= f.rate * g;
    return;
  }
  *velocity = f.momentum * *velocity + g;
  const float step = f.nesterov ? g + f.momentum * *velocity : *velocity;
  *value -= f.rate * step;
}

struct LionFactors {
  float grad, keep, pull, beta1, beta1_rest, beta2_rest, rate;
};

template <bool kTowards>
THINWIRE_HOST_DEVICE inline void lion_element(float* value, float grad,
                                              float* momentum,
                                              const float* towards,
                                              const LionFactors& f) {
  const float g = grad * f.grad;
  const float c = f.beta1 * *momentum + f.beta1_rest * g;
  float p = *value * f.keep;
  if constexpr (kTowards) p += f.pull * *towards;
  *momentum += f.beta2_rest * (g - *momentum);
  p = c > 0 ? p - f.rate : p;
  *value = c < 0 ? p + f.rate : p;
}

}  // namespace thinwire
