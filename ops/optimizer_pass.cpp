#include "ops/optimizer_pass.h"

#include <ATen/Parallel.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <vector>

#include "base/clones.h"
#include "ops/optimizer_blocks.h"
#include "ops/optimizer_elements.h"

namespace thinwire {
namespace {

constexpr std::int64_t kBlock = 4096;  // of sum_of_squares

THINWIRE_CLONE_BODY void adamw_range_body(float* __restrict values,
                                          const float* __restrict grads,
                                          float* __restrict m,
                                          float* __restrict v, std::int64_t n,
                                          AdamwFactors f) {
  for (std::int64_t i = 0; i < n; ++i) {
    adamw_element<false>(values + i, grads[i], m + i, v + i, nullptr, f);
  }
}
constexpr Clones<&adamw_range_body> adamw_range;

THINWIRE_CLONE_BODY void adamw_range_towards_body(
    float* __restrict values, const float* __restrict grads,
    float* __restrict m, float* __restrict v, const float* __restrict towards,
    std::int64_t n, AdamwFactors f) {
  for (std::int64_t i = 0; i < n; ++i) {
    adamw_element<true>(values + i, grads[i], m + i, v + i, towards + i, f);
  }
}
constexpr Clones<&adamw_range_towards_body> adamw_range_towards;

THINWIRE_CLONE_BODY void adamw_range_by_age_body(
    float* __restrict values, const float* __restrict grads,
    float* __restrict m, float* __restrict v, float* __restrict correction1,
    float* __restrict correction2, const float* towards, std::int64_t n,
    AdamwFactors f) {
  for (std::int64_t i = 0; i < n; ++i) {
    const float g = grads[i] * f.grad;
    float p = values[i] * f.keep;
    if (towards != nullptr) p += f.pull * towards[i];
    m[i] += f.beta1_rest * (g - m[i]);
    v[i] = f.beta2 * v[i] + f.beta2_rest * g * g;
    correction1[i] += f.beta1_rest * (1 - correction1[i]);
    correction2[i] += f.beta2_rest * (1 - correction2[i]);
    const float denominator = std::sqrt(v[i] / correction2[i]) + f.epsilon;
    values[i] = p - f.rate * (m[i] / correction1[i] / denominator);
  }
}
constexpr Clones<&adamw_range_by_age_body> adamw_range_by_age;

THINWIRE_CLONE_BODY void sgd_range_body(float* __restrict values,
                                        const float* __restrict grads,
                                        const float* towards, std::int64_t n,
                                        SgdFactors f) {
  for (std::int64_t i = 0; i < n; ++i) {
    sgd_element(values + i, grads[i], nullptr,
                towards == nullptr ? 0.0f : towards[i], f);
  }
}
constexpr Clones<&sgd_range_body> sgd_range;

THINWIRE_CLONE_BODY void sgd_momentum_range_body(float* __restrict values,
                                                 const float* __restrict grads,
                                                 float* __restrict velocity,
                                                 const float* towards,
                                                 std::int64_t n, SgdFactors f) {
  for (std::int64_t i = 0; i < n; ++i) {
    sgd_element(values + i, grads[i], velocity + i,
                towards == nullptr ? 0.0f : towards[i], f);
  }
}
constexpr Clones<&sgd_momentum_range_body> sgd_momentum_range;

THINWIRE_CLONE_BODY void lion_range_body(float* __restrict values,
                                         const float* __restrict grads,
                                         float* __restrict momentum,
                                         std::int64_t n, LionFactors f) {
  for (std::int64_t i = 0; i < n; ++i) {
    lion_element<false>(values + i, grads[i], momentum + i, nullptr, f);
  }
}
constexpr Clones<&lion_range_body> lion_range;

THINWIRE_CLONE_BODY void lion_range_towards_body(
    float* __restrict values, const float* __restrict grads,
    float* __restrict momentum, const float* __restrict towards, std::int64_t n,
    LionFactors f) {
  for (std::int64_t i = 0; i < n; ++i) {
    lion_element<true>(values + i, grads[i], momentum + i, towards + i, f);
  }
}
constexpr Clones<&lion_range_towards_body> lion_range_towards;

THINWIRE_CLONE_BODY double block_sum_of_squares_body(const float* x,
                                                     std::int64_t n) {
  constexpr int kLanes = 8;
  double lanes[kLanes] = {};
  std::int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) {
    for (int j = 0; j < kLanes; ++j) {
      const double value = x[i + j];
      lanes[j] += value * value;
    }
  }
  double sum = 0;
  for (; i < n; ++i) sum += static_cast<double>(x[i]) * x[i];
  for (int j = 0; j < kLanes; ++j) sum += lanes[j];
  return sum;
}
constexpr Clones<&block_sum_of_squares_body> block_sum_of_squares;

THINWIRE_CLONE_BODY bool block_all_finite_body(const float* x, std::int64_t n) {
  std::uint32_t bad = 0;
  for (std::int64_t i = 0; i < n; ++i) {
    const auto bits = std::bit_cast<std::uint32_t>(x[i]);
    bad |= static_cast<std::uint32_t>((bits & 0x7f800000u) == 0x7f800000u);
  }
  return bad == 0;
}
constexpr Clones<&block_all_finite_body> block_all_finite;

AdamwFactors factors(const AdamwStep& s, double correction1,
                     double correction2) {
  return {.grad = static_cast<float>(s.grad_scale),
          .keep = static_cast<float>(1 - s.lr * s.weight_decay),
          .pull = static_cast<float>(s.lr * s.weight_decay),
          .beta1_rest = static_cast<float>(1 - s.beta1),
          .beta2 = static_cast<float>(s.beta2),
          .beta2_rest = static_cast<float>(1 - s.beta2),
          .inverse_root = static_cast<float>(1 / std::sqrt(correction2)),
          .epsilon = static_cast<float>(s.epsilon),
          .rate = static_cast<float>(s.lr / correction1)};
}

}  // namespace

AdamwFactors adamw_factors(const AdamwStep& s) {
  const auto steps = static_cast<double>(s.step);
  return factors(s, 1 - std::pow(s.beta1, steps), 1 - std::pow(s.beta2, steps));
}

SgdFactors sgd_factors(const SgdStep& s) {
  return {.rate = static_cast<float>(s.lr),
          .momentum = static_cast<float>(s.momentum),
          .decay = static_cast<float>(s.weight_decay),
          .grad = static_cast<float>(s.grad_scale),
          .nesterov = s.nesterov};
}

LionFactors lion_factors(const LionStep& s) {
  return {.grad = static_cast<float>(s.grad_scale),
          .keep = static_cast<float>(1 - s.lr * s.weight_decay),
          .pull = static_cast<float>(s.lr * s.weight_decay),
          .beta1 = static_cast<float>(s.beta1),
          .beta1_rest = static_cast<float>(1 - s.beta1),
          .beta2_rest = static_cast<float>(1 - s.beta2),
          .rate = static_cast<float>(s.lr)};
}

void adamw_pass(float* values, const float* grads, float* m, float* v,
                const float* decay_towards, std::int64_t n, const AdamwStep& s,
                std::span<const MaskedWrite> writes) {
  const AdamwFactors f = adamw_factors(s);
  update_and_write(
      values, n, writes, [&](std::int64_t begin, std::int64_t end) {
        if (decay_towards == nullptr) {
          adamw_range(values + begin, grads + begin, m + begin, v + begin,
                      end - begin, f);
        } else {
          adamw_range_towards(values + begin, grads + begin, m + begin,
                              v + begin, decay_towards + begin, end - begin, f);
        }
      });
}

void adamw_pass_by_age(float* values, const float* grads, float* m, float* v,
                       float* correction1, float* correction2,
                       const float* decay_towards, std::int64_t n,
                       const AdamwStep& s,
                       std::span<const MaskedWrite> writes) {
  const AdamwFactors f = factors(s, 1, 1);
  update_and_write(
      values, n, writes, [&](std::int64_t begin, std::int64_t end) {
        adamw_range_by_age(
            values + begin, grads + begin, m + begin, v + begin,
            correction1 + begin, correction2 + begin,
            decay_towards == nullptr ? nullptr : decay_towards + begin,
            end - begin, f);
      });
}

void sgd_pass(float* values, const float* grads, float* velocity,
              const float* decay_towards, std::int64_t n, const SgdStep& s,
              std::span<const MaskedWrite> writes) {
  const SgdFactors f = sgd_factors(s);
  update_and_write(
      values, n, writes, [&](std::int64_t begin, std::int64_t end) {
        const float* towards =
            decay_towards == nullptr ? nullptr : decay_towards + begin;
        if (s.momentum == 0) {
          sgd_range(values + begin, grads + begin, towards, end - begin, f);
        } else {
          sgd_momentum_range(values + begin, grads + begin, velocity + begin,
                             towards, end - begin, f);
        }
      });
}

void lion_pass(float* values, const float* grads, float* momentum,
               const float* decay_towards, std::int64_t n, const LionStep& s,
               std::span<const MaskedWrite> writes) {
  const LionFactors f = lion_factors(s);
  update_and_write(
      values, n, writes, [&](std::int64_t begin, std::int64_t end) {
        if (decay_towards == nullptr) {
          lion_range(values + begin, grads + begin, momentum + begin,
                     end - begin, f);
        } else {
          lion_range_towards(values + begin, grads + begin, momentum + begin,
                             decay_towards + begin, end - begin, f);
        }
      });
}

double sum_of_squares(const float* x, std::int64_t n) {
  const std::int64_t blocks = (n + kBlock - 1) / kBlock;
  std::vector<double> partial(static_cast<std::size_t>(blocks));
  at::parallel_for(
      0, blocks, kGrain / kBlock, [&](std::int64_t begin, std::int64_t end) {
        for (std::int64_t b = begin; b < end; ++b) {
          partial[static_cast<std::size_t>(b)] = block_sum_of_squares(
              x + b * kBlock, std::min(kBlock, n - b * kBlock));
        }
      });
  double sum = 0;
  for (const double value : partial) sum += value;
  return sum;
}

bool all_finite(const float* x, std::int64_t n) {
  for (std::int64_t i = 0; i < n; i += kBlock) {
    if (!block_all_finite(x + i, std::min(kBlock, n - i))) return false;
  }
  return true;
}

}  // namespace thinwire
