// Hard-concrete gates: z in [0, 1], exactly 0 or 1 with a probability that has
// a gradient. Louizos, Welling & Kingma 2018, "Learning sparse neural networks
// through L0 regularization", sec. 3.2, temperature 1; the interval is that of
// Guo, Rush & Kim 2021, "Parameter-efficient transfer learning with diff
// pruning", sec. 3.1.
//   s = sigmoid(log u - log(1 - u) + a), z = min(1, max(0, s (r - l) + l))
// a is what trains, u uniform noise in (0, 1); without noise, as in evaluation,
// s = sigmoid(a). P(z > 0) = sigmoid(a - log(-l / r)) = sigmoid(a).
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <optional>

namespace thinwire {

inline constexpr double kGateLow = -1.5, kGateHigh = 1.5;  // l, r

// The u of the gates of one tensor at one step: a function of these.
struct GateNoise {
  std::uint64_t seed = 0, step = 0;
  int tensor = 0;  // its number in the backbone
  // Of the gates of its numbers, begin a multiple of 16,384, or of the one that
  // they share: fp32 [count] in the CPU's memory, within [1e-4, 1 - 1e-4] as in
  // the code of diff pruning.
  enum class Of { kNumbers, kTensor };
  at::Tensor draw(std::int64_t begin, std::int64_t count, Of of) const;
};

// z and dz / da, of a's shape; u undefined: no noise. a asks for no gradient.
at::Tensor gate(const at::Tensor& a, const at::Tensor& u);
at::Tensor gate_slope(const at::Tensor& a, const at::Tensor& u);

// lambda times the sum of P(z > 0) over a [n]; its gradient, times `scale`, is
// added to grad [n].
double add_open_penalty(const at::Tensor& a, double lambda, double scale,
                        at::Tensor grad);

// values and gates fp32 of one shape; rest of that shape, fp32 or bf16, without
// a gradient; all contiguous. shared [1], or undefined.
struct GatedTensor {
  at::Tensor values, rest, gates, shared;
};
// rest + z z' (values - rest): z of `gates`, z' of `shared`, 1 where there is
// none. Backward draws and computes the gates again, so that the graph keeps
// nothing of the tensor's size but the result. No noise: as in evaluation.
at::Tensor gated(const GatedTensor& tensor,
                 const std::optional<GateNoise>& noise);

}  // namespace thinwire
